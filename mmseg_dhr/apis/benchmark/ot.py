"""Entropic optimal transport against POT (``ot.sinkhorn``), image by image."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import sinkhorn
from .photos import Photo, class_scores
from .timing import Case, Row, Setup, one_thread, row

__all__ = ['REG', 'RIVALS', 'Rival', 'ot_rows', 'plan_agreement', 'pot_plans']

REG = 0.1
"""Weight of the entropy, that of DHR."""
# For the rows over image size and batch: the classes of VOC, on DHR's grid.
_CLASSES, _SCALE = 21, 0.25


class Rival(NamedTuple):
    """How POT is called, and what of ours it stands beside.

    Attributes:
        updates: Of our Sinkhorn; None converges, by Newton's method.
        most: Updates of POT at most.
        stop: POT's ``stopThr``, the norm of the error of the pixels' masses.
        relative: Whether ``stop`` is an error relative to the masses, whatever their number.
        dtype: Of POT's cost matrix.
    """
    updates: int | None
    most: int
    stop: float
    relative: bool = False
    dtype: torch.dtype = torch.float32


RIVALS = {
    '100 updates': Rival(100, 100, 0),
    'converged (POT to 1e-5)': Rival(None, 1000, 1e-5, relative=True),
    "converged (POT's defaults)": Rival(None, 1000, 1e-9, dtype=torch.float64),
}
"""As many updates; an error that float32 can tell from 0; and as POT is called in most codes."""


def ot_rows(setup: Setup) -> Iterator[Row]:
    """Lines of the suite: class counts, image sizes, batches; each against :data:`RIVALS`.

    One thread. The reference gets its cost matrix ready made, with a class per row, which is its
    fastest: as NumPy's on the CPU, as PyTorch's on a GPU.
    """
    settings = [(classes, _SCALE, 1, '') for classes in setup.classes]
    settings += [(_CLASSES, scale, 1, f', scale {scale:g}') for scale in setup.scales]
    settings += [(_CLASSES, _SCALE, size, '') for size in setup.batches if size > 1]
    with one_thread():
        for classes, scale, size, note in settings:
            for name, rival in RIVALS.items():
                raced = setup.race(_against_pot(group, classes, scale, rival, setup)
                                   for group in setup.groups(size))
                yield row('ot', f'{name}{note}: ours / POT', raced['ours'], classes, size)


def plan_agreement(ours: Tensor, reference: Sequence[Any]) -> dict[str, float]:
    """How far the plans of a batch agree, as shares of a pixel that classes receive.

    Args:
        ours (Tensor): (B, C, N) padded at the end of N, total mass 1 per image.
        reference (Sequence): (C, n) for each image, n <= N.

    Returns:
        dict: ``equal %``, pixels whose largest share goes to the same class; ``mean |dT|``, over
        classes and pixels.
    """
    same, difference, total = 0.0, 0.0, 0
    for plan, other in zip(ours.cpu(), reference, strict=True):
        theirs = torch.as_tensor(other).cpu()
        mine = plan[:, :theirs.shape[1]]
        pixels = theirs.shape[1]
        same += (mine.argmax(0) == theirs.argmax(0)).sum().item()
        difference += pixels * (mine - theirs).abs().mean(0).sum().item()
        total += pixels
    return {'equal %': 100 * same / total, 'mean |dT|': difference / total}


def pot_plans(costs: Sequence[Any], rival: Rival) -> list[Any]:
    """Plans (C, n) of POT for cost matrices (C, n), arrays of NumPy or PyTorch; uniform marginals.

    Args:
        costs (Sequence): ``1 - S`` of each image.
        rival (Rival): How to call it; of ``dtype`` are the costs already.
    """
    import ot

    plans = []
    for cost in costs:
        classes, pixels = cost.shape
        stop = rival.stop / pixels**0.5 if rival.relative else rival.stop
        plans.append(ot.sinkhorn(_uniform(cost, classes), _uniform(cost, pixels), cost, REG,
                                 method='sinkhorn', numItermax=rival.most, stopThr=stop,
                                 warn=False))
    return plans


def _uniform(like: Any, size: int) -> Any:
    if isinstance(like, Tensor):
        return like.new_full((size, ), 1 / size)
    return np.full(size, 1 / size, like.dtype)


def _against_pot(photos: Sequence[Photo], classes: int, scale: float, rival: Rival,
                 setup: Setup) -> Case:
    maps = [torch.from_numpy(class_scores(photo.scaled(scale), classes, setup.seed)).flatten(1)
            for photo in photos]
    maps = [one / one.max() for one in maps]
    most = max(one.shape[1] for one in maps)
    scores = torch.stack([F.pad(one, (0, most - one.shape[1])) for one in maps]).to(setup.device)
    inside = torch.arange(most) < torch.tensor([[one.shape[1]] for one in maps])
    costs: list[Any] = [1 - one.to(setup.device, rival.dtype) for one in maps]
    if setup.device.type == 'cpu':
        costs = [cost.numpy() for cost in costs]
    ours = partial(sinkhorn, scores, REG, pixel_mask=inside.to(setup.device),
                   num_iters=rival.updates)
    pixels = sum(one.shape[1] for one in maps) // len(maps)
    return Case({'ours': ours}, partial(pot_plans, costs, rival), pixels, plan_agreement)
