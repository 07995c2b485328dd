"""Class-level average pooling (DHR, Appendix A.1)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['class_area_fractions', 'class_average_pool', 'class_similarity', 'majority_vote']


def class_area_fractions(mask: Tensor, classes: Tensor, class_mask: Tensor,
                         out_size: Sequence[int]) -> Tensor:
    """Share of every feature cell that each class covers.

    A majority vote per cell would lose a class that dominates no cell, which
    is the very vanishing that DHR fights; the area fraction keeps it.

    Args:
        mask (Tensor): Label mask (B, H, W), integer; 255 or any id that is not
            in ``classes`` counts for nothing.
        classes (Tensor): Long (B, C), the label id behind each channel.
        class_mask (Tensor): Bool (B, C), False = channel unused.
        out_size (tuple): (h, w) of the feature grid.

    Returns:
        Tensor: Float32 (B, C, h, w) in [0, 1].

    Raises:
        ValueError: If the shapes do not fit.
    """
    if mask.ndim != 3 or classes.ndim != 2 or mask.shape[0] != classes.shape[0]:
        raise ValueError('Expected mask (B, H, W) and classes (B, C), '
                         f'but got {tuple(mask.shape)} and {tuple(classes.shape)}.')
    one_hot = (mask[:, None] == classes[:, :, None, None]) & class_mask[:, :, None, None]
    return _area_pool(one_hot.float(), out_size)


def _area_pool(maps: Tensor, out_size: Sequence[int]) -> Tensor:
    """Exact box average onto any grid: every cell weighs the pixels it overlaps by area."""
    rows = _overlap(maps.shape[-2], out_size[0], maps)
    columns = _overlap(maps.shape[-1], out_size[1], maps)
    return torch.einsum('hy,bcyx,wx->bchw', rows, maps, columns)


def _overlap(size: int, cells: int, like: Tensor) -> Tensor:
    """Matrix (cells, size): the share of each cell that each pixel covers; rows sum to 1."""
    edges = torch.linspace(0, size, cells + 1, device=like.device, dtype=torch.float64)
    pixel = torch.arange(size, device=like.device, dtype=torch.float64)
    right = torch.minimum(edges[1:, None], pixel + 1)
    left = torch.maximum(edges[:-1, None], pixel)
    return ((right - left).clamp_min(0) * cells / size).to(like.dtype)


def majority_vote(fractions: Tensor) -> Tensor:
    """Give every cell to the class that covers most of it (the paper's code), for comparison.

    Args:
        fractions (Tensor): (B, C, h, w) of :func:`class_area_fractions`.

    Returns:
        Tensor: (B, C, h, w), 1 for the winner (the first of equals), 0 elsewhere and in cells
        without any class.
    """
    best, winner = fractions.max(1, keepdim=True)
    return torch.zeros_like(fractions).scatter(1, winner, (best > 0).to(fractions.dtype))


def class_average_pool(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean feature of each class, weighted by how much of each cell it covers.

    Args:
        features (Tensor): (B, D, h, w), computed in float32.
        weights (Tensor): (B, C, h, w), non-negative, e.g. from :func:`class_area_fractions`.

    Returns:
        tuple[Tensor, Tensor]: Centroids (B, C, D), zero for a class without
        area, and a bool (B, C) that says which classes have area.

    Raises:
        ValueError: If the grids differ.
    """
    if features.shape[-2:] != weights.shape[-2:] or features.shape[0] != weights.shape[0]:
        raise ValueError('Expected features and weights on the same grid, '
                         f'but got {tuple(features.shape)} and {tuple(weights.shape)}.')
    with torch.autocast(features.device.type, enabled=False):
        weights = weights.float().flatten(2)  # (B, C, N)
        total = weights.sum(2, keepdim=True)  # (B, C, 1)
        sums = weights @ features.float().flatten(2).transpose(1, 2)  # (B, C, D)
        return sums / total.clamp_min(1e-12), total[..., 0] > 0


def class_similarity(features: Tensor, centroids: Tensor) -> Tensor:
    """``ReLU(sim(F, V))``: cosine of every pixel with every centroid (DHR, Eqs. 3-4).

    Args:
        features (Tensor): (B, D, h, w).
        centroids (Tensor): (B, C, D); a zero centroid has similarity 0.

    Returns:
        Tensor: Float32 (B, C, h, w) in [0, 1].
    """
    with torch.autocast(features.device.type, enabled=False):
        feats = F.normalize(torch.nan_to_num(features.float()), dim=1)
        centers = F.normalize(centroids.float(), dim=2)
        return torch.einsum('bcd,bdhw->bchw', centers, feats).relu()
