from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from ...ops import (
    TransportSettings,
    add_background,
    class_marginal,
    integrate_seeds,
    labels_from_scores,
    rebalance_uss,
    rebalance_wss,
    recover_seeds,
)

IGNORE = 255
Size = tuple[int, int]


class PropagationInputs(NamedTuple):
    """What DHR reads of a batch of B images, padded at the bottom and right to one size.

    Attributes:
        images: RGB 0..255, (B, 3, H, W).
        sizes: (height, width) of each image without padding.
        tags: Foreground label ids of each image.
        cam: A in [0, 1], (B, K, h, w), K foreground classes in label order.
        uss: F_us, (B, D, h', w'), covering the padded image.
        wss: Levels of F_ws, each (B, D_l, h_l, w_l), covering the padded image.
        base: M_base (B, H, W), 255 = ignore; None when there is none at all.
        base_shares: Per image the area share of every label in the whole M_base, (num_classes,);
            None = this image has no M_base.
    """
    images: Tensor
    sizes: Sequence[Size]
    tags: Sequence[Sequence[int]]
    cam: Tensor
    uss: Tensor
    wss: Sequence[Tensor]
    base: Tensor | None = None
    base_shares: Sequence[np.ndarray | None] | None = None


class PropagationResult(NamedTuple):
    """Label masks, long, 255 = ignore.

    Attributes:
        final: M_dh on the working grid (B, ceil(H / stride), ceil(W / stride)).
        init: M_init (Step 1), (B, H, W).
        uss: Argmax after Step 2 on the working grid; None unless stages were asked for.
        wss: Argmax after Step 3, before R_C; None unless stages were asked for.
        nearest: The control: each cell takes the class of the nearest USS centroid, without
            transport; None unless stages were asked for.
    """
    final: Tensor
    init: Tensor
    uss: Tensor | None = None
    wss: Tensor | None = None
    nearest: Tensor | None = None


class _Layout(NamedTuple):
    """Which label stands behind which channel: background first, then the image's tags."""
    classes: Tensor  # (B, C) long
    class_mask: Tensor  # (B, C) bool
    first: int  # channel of the first tag


@MODELS.register_module()
class DHRPropagation:
    """Dual features-driven hierarchical rebalancing of one batch (DHR, Section 3.2).

    Without M_base the seeds and their background are M_init, so tags alone are enough.

    Args:
        num_classes (int): Classes of the data set, background included.
        background_index (int, optional): Label id of the background; None if there is none.
            Defaults to 0.
        reg (float): λ of the optimal transport (Eq. 2). Defaults to 0.1.
        num_iters (int): Sinkhorn updates. Defaults to 50.
        marginal (str): Class marginals of Steps 2 and 3: 'uniform' (the paper), 'area' or
            'sqrt_area' of M_init. Defaults to 'uniform'.
        tau (float): Threshold of the USS correlation (Eq. 4); 1 switches WSS off. Defaults to 0.8.
        merge (str): Which seeds enter M_base: 'vanished', those of classes that M_base lost, or
            'all'. Defaults to 'vanished'.
        min_share (float): A class counts as lost when its share of M_base's area is at most this.
            Defaults to 0.
        background_power (float): γ of the background ``(1 - max_c)^γ`` beside the seeds.
            Defaults to 2.
        refine (dict, optional): R_C, a registered refiner. Defaults to
            ``dict(type='DenseCRF')``; None skips it.
        stride (int): Step of the working grid on which R_C runs and M_dh is given, in pixels. 4 is
            where the decoder is supervised. Defaults to 4.

    Raises:
        ValueError: If a setting is not one of those named.
    """

    def __init__(self,
                 num_classes: int,
                 background_index: int | None = 0,
                 reg: float = 0.1,
                 num_iters: int = 50,
                 marginal: str = 'uniform',
                 tau: float = 0.8,
                 merge: str = 'vanished',
                 min_share: float = 0.0,
                 background_power: float = 2.0,
                 refine: dict | None = dict(type='DenseCRF'),
                 stride: int = 4) -> None:
        if merge not in ('vanished', 'all'):
            raise ValueError(f"Expected merge to be 'vanished' or 'all', but got {merge!r}.")
        if stride < 1:
            raise ValueError(f'Expected stride to be a positive integer, but got {stride}.')
        class_marginal(torch.zeros(1, 1), marginal)  # refuses an unknown name at once
        self.num_classes = num_classes
        self.background_index = background_index
        self.foreground = [c for c in range(num_classes) if c != background_index]
        self.transport = TransportSettings(reg, num_iters, marginal)
        self.tau = tau
        self.merge = merge
        self.min_share = min_share
        self.background_power = background_power
        self.refine = None if refine is None else MODELS.build(refine)
        self.stride = stride

    @torch.no_grad()
    def __call__(self, batch: PropagationInputs, stages: bool = False) -> PropagationResult:
        """Run Steps 1 to 3 and both R_C.

        Args:
            batch (PropagationInputs): The images and what is known of them.
            stages (bool): Also return the masks after Steps 2 and 3. Defaults to False.

        Returns:
            PropagationResult: M_dh and M_init, and the stages on request.
        """
        layout = self._layout(batch)
        init = self._init_mask(batch, layout)
        uss_mask = valid_mask(batch.images, batch.sizes, batch.uss.shape[-2:])
        uss = rebalance_uss(batch.uss, init, layout.classes, layout.class_mask, uss_mask,
                            self.transport)
        wss_masks = [valid_mask(batch.images, batch.sizes, f.shape[-2:]) for f in batch.wss]
        scores = rebalance_wss(uss, batch.wss, init, layout.classes, [*wss_masks, uss_mask],
                               self.tau, self.transport) if batch.wss else uss.maps
        final = self._labels(batch, scores, layout, refine=True)
        if not stages:
            return PropagationResult(final, init)
        return PropagationResult(final, init,
                                 self._labels(batch, uss.maps, layout, refine=False),
                                 self._labels(batch, scores, layout, refine=False),
                                 self._labels(batch, uss.similarity, layout, refine=False))

    def summary(self) -> dict[str, Any]:
        """The settings, as JSON can hold them."""
        return dict(**self.transport._asdict(), tau=self.tau, merge=self.merge,
                    min_share=self.min_share, background_power=self.background_power,
                    refine=repr(self.refine))

    @contextmanager
    def at_stride(self, stride: int) -> Iterator[None]:
        """Work on another grid for a while."""
        previous, self.stride = self.stride, stride
        try:
            yield
        finally:
            self.stride = previous

    def _layout(self, batch: PropagationInputs) -> _Layout:
        first = 0 if self.background_index is None else 1
        width = max([1, *(first + len(tags) for tags in batch.tags)])
        classes = torch.full((len(batch.tags), width), -1, dtype=torch.long)
        if self.background_index is not None:
            classes[:, 0] = self.background_index
        for row, tags in enumerate(batch.tags):
            classes[row, first:first + len(tags)] = torch.as_tensor(sorted(tags), dtype=torch.long)
        classes = classes.to(batch.cam.device)
        return _Layout(classes, classes >= 0, first)

    def _init_mask(self, batch: PropagationInputs, layout: _Layout) -> Tensor:
        """Step 1: M_init at the resolution of the images."""
        size = batch.images.shape[-2:]
        shares = [None if batch.base is None else s
                  for s in batch.base_shares or [None] * len(batch.tags)]
        recover = self._classes_to_recover(batch.tags, shares, layout)
        rows = [i for i, wanted in enumerate(recover.any(1).tolist())
                if wanted or shares[i] is None]
        base = (torch.full((len(batch.tags), *size), IGNORE, device=batch.cam.device)
                if batch.base is None else batch.base.long())
        if not rows:
            return base
        picked = torch.as_tensor(rows, device=batch.cam.device)
        seeds = self._seeds(batch, layout, picked)
        alone = torch.as_tensor([shares[i] is None for i in rows], device=seeds.device)
        merged = integrate_seeds(base[picked], seeds, recover.to(seeds.device)[picked],
                                 layout.classes[picked])
        init = base.clone()
        init[picked] = torch.where(alone[:, None, None], seeds, merged)
        return init

    def _classes_to_recover(self, tags: Sequence[Sequence[int]],
                            shares: Sequence[np.ndarray | None], layout: _Layout) -> Tensor:
        """Bool (B, C) on the CPU: tagged classes whose seeds enter M_base."""
        recover = layout.class_mask.cpu().clone()
        recover[:, :layout.first] = False
        for row, (labels, share) in enumerate(zip(tags, shares, strict=True)):
            if self.merge == 'vanished' and share is not None:
                for channel, label in enumerate(sorted(labels), start=layout.first):
                    recover[row, channel] = bool(share[label] <= self.min_share)
        return recover

    def _seeds(self, batch: PropagationInputs, layout: _Layout, rows: Tensor) -> Tensor:
        """M_seed = R_C(f_OT(A) * A) of some images, (R, H, W); background included."""
        index = rows.tolist()
        part = PropagationInputs(batch.images[rows], [batch.sizes[i] for i in index],
                                 [batch.tags[i] for i in index], batch.cam[rows],
                                 batch.uss[:0], [])
        classes, class_mask = layout.classes[rows], layout.class_mask[rows]
        tag_mask = class_mask[:, layout.first:]
        channel = torch.full((self.num_classes + 1,), 0, device=rows.device)
        channel[self.foreground] = torch.arange(len(self.foreground), device=rows.device)
        gather = channel[classes[:, layout.first:]][:, :, None, None]
        cam = part.cam.gather(1, gather.expand(-1, -1, *part.cam.shape[-2:]))
        cam = cam * tag_mask[:, :, None, None]
        inside = valid_mask(part.images, part.sizes, cam.shape[-2:])
        scores = recover_seeds(cam, tag_mask, inside, self.transport)
        if layout.first:
            scores = add_background(scores, power=self.background_power)
        seeds = self._labels(part, scores, _Layout(classes, class_mask, layout.first), refine=True)
        return _resize_labels(seeds, batch.images.shape[-2:])

    def _labels(self, batch: PropagationInputs, scores: Tensor, layout: _Layout,
                refine: bool) -> Tensor:
        """Scores -> labels on the working grid, through R_C if asked and there is one."""
        height, width = batch.images.shape[-2:]
        grid = (math.ceil(height / self.stride), math.ceil(width / self.stride))
        scores = F.interpolate(scores, size=grid, mode='bilinear', align_corners=False)
        scores = scores.masked_fill(~layout.class_mask[:, :, None, None], 0.0)
        if refine and self.refine is not None:
            images = F.interpolate(batch.images.float(), size=grid, mode='area')
            sizes = [(math.ceil(h / self.stride), math.ceil(w / self.stride))
                     for h, w in batch.sizes]
            empty = scores.sum(1, keepdim=True) <= 0
            scores = self.refine(images, scores, layout.class_mask, sizes, self.stride)
            scores = scores.masked_fill(empty, 0.0)
        inside = valid_mask(batch.images, batch.sizes, grid)
        return labels_from_scores(scores, layout.classes, layout.class_mask, inside)


def valid_mask(images: Tensor, sizes: Sequence[Size], grid: Sequence[int]) -> Tensor:
    """Cells of a grid over the padded images whose centre lies in the image itself.

    Args:
        images (Tensor): (B, 3, H, W), for the padded size and the device.
        sizes (Sequence[tuple]): (height, width) of each image.
        grid (Sequence[int]): (h, w).

    Returns:
        Tensor: Bool (B, h, w).
    """
    height, width = images.shape[-2:]
    limits = torch.as_tensor([tuple(s) for s in sizes], dtype=torch.float32, device=images.device)
    rows = (torch.arange(grid[0], device=images.device) + 0.5) * height / grid[0]
    columns = (torch.arange(grid[1], device=images.device) + 0.5) * width / grid[1]
    inside_rows = rows[None] < limits[:, :1]
    inside_columns = columns[None] < limits[:, 1:]
    # An image that is smaller than half a cell still owns the first cell.
    inside_rows[:, 0] = True
    inside_columns[:, 0] = True
    return inside_rows[:, :, None] & inside_columns[:, None, :]


def _resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(labels[:, None].float(), size=tuple(size), mode='nearest')[:, 0].long()

