"""The sparse random walk against squaring the dense transition matrix, image by image."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.random_walk import affinity_from_features, neighbour_offsets, random_walk
from .crf import batch_of, label_agreement
from .photos import Photo
from .timing import Case, Row, Setup, one_thread, row

__all__ = ['dense_walk', 'walk_rows']

RADIUS, BETA, DOUBLINGS, STRIDE = 5, 8.0, 8, 8
"""Those of PSA: 2**8 steps on a grid of 8 pixels."""
# For the rows over image size and batch; for those over classes and batch, half the photo's side.
_CLASSES, _SCALE = 3, 0.5
# Grey levels that count as a feature distance of 1: no affinity to the power of beta underflows.
_GREY_LEVELS = 64


def walk_rows(setup: Setup) -> Iterator[Row]:
    """Lines of the suite: class counts, image sizes, batches; pixels are those of the grid.

    One thread; both start from the same affinities, those of the photo's colours.
    """
    settings = [(classes, _SCALE, 1, '') for classes in setup.classes]
    settings += [(_CLASSES, scale, 1, f', scale {scale:g}') for scale in setup.scales]
    settings += [(_CLASSES, _SCALE, size, '') for size in setup.batches if size > 1]
    with one_thread():
        for classes, scale, size, note in settings:
            raced = setup.race(_against_squaring(group, classes, scale, setup)
                               for group in setup.groups(size))
            yield row('walk', f'{2**DOUBLINGS} steps{note}: sparse / dense', raced['ours'],
                      classes, size)


def dense_walk(scores: Tensor, affinity: Tensor) -> Tensor:
    """The walk as PSA and IRNet compute it.

    Args:
        scores (Tensor): (C, h, w).
        affinity (Tensor): (K, h, w), of :func:`~mmseg_dhr.ops.random_walk.affinity_from_features`.

    Returns:
        Tensor: (C, h, w).
    """
    height, width = scores.shape[1:]
    index = torch.arange(height * width, device=scores.device).view(height, width)
    transitions = torch.eye(height * width, device=scores.device)
    for (y, x), ties in zip(neighbour_offsets(RADIUS), affinity**BETA, strict=True):
        here = (slice(0, max(0, height - y)), slice(max(0, -x), max(0, width - max(0, x))))
        there = (slice(y, height), slice(max(0, x), max(0, width + min(0, x))))
        transitions[index[here].flatten(), index[there].flatten()] = ties[here].flatten()
        transitions[index[there].flatten(), index[here].flatten()] = ties[here].flatten()
    transitions /= transitions.sum(0)
    for _ in range(DOUBLINGS):
        transitions = transitions @ transitions
    return (scores.flatten(1) @ transitions).view(scores.shape)


def _against_squaring(photos: Sequence[Photo], classes: int, scale: float, setup: Setup) -> Case:
    batch = batch_of([photo.scaled(scale / STRIDE) for photo in photos], classes,
                     setup.seed).to(setup.device)
    inside = batch.scores.sum(1) > 0
    affinity = affinity_from_features(batch.images / _GREY_LEVELS, RADIUS)
    crops = [(slice(None), slice(height), slice(width)) for height, width in batch.sizes]
    images = [(scores[crop], ties[crop])
              for scores, ties, crop in zip(batch.scores, affinity, crops, strict=True)]

    def dense() -> list[Tensor]:
        return [dense_walk(scores, ties) for scores, ties in images]

    def compare(ours: Tensor, reference: list[Tensor]) -> dict[str, float]:
        return label_agreement(ours, _padded(reference, ours.shape[-2:]))

    ours = partial(random_walk, batch.scores, affinity, neighbour_offsets(RADIUS), BETA,
                   2**DOUBLINGS, inside)
    return Case({'ours': ours}, dense, int(inside.sum()) // len(photos), compare)


def _padded(maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    return torch.stack([F.pad(one, (0, size[1] - one.shape[2], 0, size[0] - one.shape[1]))
                        for one in maps])
