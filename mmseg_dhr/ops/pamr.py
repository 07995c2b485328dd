"""Pixel-adaptive mask refinement (Araslanov & Roth, CVPR 2020), a light R_C."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['pamr']

_RING = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def pamr(images: Tensor, scores: Tensor, pixel_mask: Tensor, num_iters: int = 10,
         dilations: Sequence[int] = (1, 2, 4, 8, 12, 24)) -> Tensor:
    """Let every pixel take over the scores of the neighbours that look like it.

    The weight of a neighbour n of pixel i is the softmax, over all neighbours (eight per dilation),
    of ``-|I_i - I_n| / σ_i²`` averaged over the colour channels, where σ_i is the standard
    deviation of the colours around i. Scores are then averaged with these weights, repeatedly.

    Args:
        images (Tensor): RGB (B, 3, h, w) in 0..255.
        scores (Tensor): (B, C, h, w) on the same grid.
        pixel_mask (Tensor): Bool (B, h, w); pixels outside are nobody's neighbours.
        num_iters (int): Rounds. Defaults to 10.
        dilations (Sequence[int]): Distances of the neighbours. Defaults to those of the paper.

    Returns:
        Tensor: Float32 (B, C, h, w), 0 outside the mask.
    """
    with torch.autocast(images.device.type, enabled=False):
        inside = pixel_mask[:, None]
        weights = _affinity(images.float() / 255, inside, dilations)  # (B, n, h, w)
        scores = torch.nan_to_num(scores.float()) * inside
        for _ in range(num_iters):
            scores = sum((near * weights[:, n, None] for n, near in
                          enumerate(_neighbours(scores, dilations))), torch.zeros(()).to(scores))
        return scores * inside


def _affinity(images: Tensor, inside: Tensor, dilations: Sequence[int]) -> Tensor:
    """Neighbour by neighbour: maps of all colours of all neighbours would fill the memory."""
    valid = torch.cat(list(_neighbours(inside.float(), dilations)), 1)  # (B, n, h, w)
    count = valid.sum(1, keepdim=True).clamp_min(1)

    def mean(maps: Iterable[Tensor]) -> Tensor:
        """Over the neighbours inside, (B, 3, h, w)."""
        return sum((one * valid[:, n, None] for n, one in enumerate(maps)),
                   torch.zeros_like(images)) / count

    centre = mean(_neighbours(images, dilations))
    variance = mean((near - centre)**2 for near in _neighbours(images, dilations)).clamp_min(1e-6)
    distance = torch.stack([((images - near).abs() / variance).mean(1)
                            for near in _neighbours(images, dilations)], 1)  # (B, n, h, w)
    return (-distance.masked_fill(valid == 0, 1e9)).softmax(1)  # finite: all may be outside


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """The maps (B, C, h, w) of each neighbour; what lies outside the grid is 0."""
    height, width = maps.shape[-2:]
    reach = max(dilations)
    padded = F.pad(maps, (reach, ) * 4)
    for d in dilations:
        for y, x in _RING:
            yield padded[..., reach + d * y:reach + d * y + height,
                         reach + d * x:reach + d * x + width]
