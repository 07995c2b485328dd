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
    one_hot = (mask[:, None] == classes[:, :, None, None]).float()  # (B, C, H, W)
    return _area_pool(one_hot, out_size) * class_mask[:, :, None, None]


def _area_pool(maps: Tensor, out_size: Sequence[int]) -> Tensor:
    """Exact box average onto any grid: every cell weighs the pixels it overlaps by area."""
    height, width = maps.shape[-2:]
    rows = _overlap(height, out_size[0], maps)
    columns = _overlap(width, out_size[1], maps)
    with torch.autocast(maps.device.type, enabled=False):
        # In this order, the large product copies nothing.
        return rows @ (maps @ columns.T) / (height * width)


def _overlap(size: int, cells: int, like: Tensor) -> Tensor:
    """Matrix (cells, size): how much of each pixel lies in each cell; rows sum to ``size``.

    Measured in parts of a pixel that make both edges whole numbers: sums of one-hot maps are then
    exact, and equal areas are equal numbers.
    """
    cell = torch.arange(cells, device=like.device)[:, None] * size
    pixel = torch.arange(size, device=like.device) * cells
    right = torch.minimum(cell + size, pixel + cells)
    return (right - torch.maximum(cell, pixel)).clamp_min(0).to(like.dtype)


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
        features (Tensor): (B, D, h, w), computed in float32. A cell that is not finite counts for
            no class.
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
        feats = features.float().flatten(2)  # (B, D, N)
        finite = feats.isfinite().all(1, keepdim=True)  # (B, 1, N)
        weights = weights.float().flatten(2) * finite  # (B, C, N)
        total = weights.sum(2, keepdim=True)  # (B, C, 1)
        sums = weights @ feats.masked_fill(~finite, 0.0).transpose(1, 2)  # (B, C, D)
        return sums / total.clamp_min(1e-12), total[..., 0] > 0


def class_similarity(features: Tensor, centroids: Tensor) -> Tensor:
    """``ReLU(sim(F, V))``: cosine of every pixel with every centroid (DHR, Eqs. 3-4).

    Args:
        features (Tensor): (B, D, h, w).
        centroids (Tensor): (B, C, D); a zero centroid has similarity 0.

    Returns:
        Tensor: Float32 (B, C, h, w) in [0, 1]; 0 where a feature is not finite.
    """
    with torch.autocast(features.device.type, enabled=False):
        feats = features.float().flatten(2)  # (B, D, N)
        products = F.normalize(centroids.float(), dim=2) @ feats  # (B, C, N)
        # Divided by the norm afterwards, the features need not be copied.
        cosine = products / torch.linalg.vector_norm(feats, dim=1, keepdim=True).clamp_min(1e-12)
        return torch.nan_to_num(cosine).relu().unflatten(2, features.shape[-2:])
