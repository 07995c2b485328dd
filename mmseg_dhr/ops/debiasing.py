"""Removing biased objects with USS features, after MARS (Jo et al., ICCV 2023).

What always comes with a class (rails with the train) is called that class by weak supervision. In
other images it is background. So clusters of a class that look like the data set's background are
biased, and the others, the *debiased centroids*, show what of a mask to keep:

    F_us, mask --class_clusters--> candidates --select_debiased--> debiased centroids of each class
    F_us, debiased centroids --centroid_similarity--> maps --remove_biased--> debiased mask
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    'Clusters', 'centroid_similarity', 'class_clusters', 'remove_biased', 'select_debiased',
    'spherical_kmeans'
]

# Cosines that differ by less are one.
_EPSILON = 1e-6


class Clusters(NamedTuple):
    """Clusters of points.

    Attributes:
        centroids: Float32 (..., K, D) of unit length.
        used: Bool (..., K); False where there were fewer different points than clusters.
    """
    centroids: Tensor
    used: Tensor


@torch.no_grad()
def spherical_kmeans(points: Tensor, weights: Tensor, count: int, num_iters: int = 20) -> Clusters:
    """Weighted k-means by cosine.

    Nothing is random: the first centroid is the point nearest to the mean, each further one the
    point farthest from those before.

    Args:
        points (Tensor): (B, N, D), any length; computed in float32.
        weights (Tensor): (B, N), non-negative; a point of weight 0 takes no part, nor does one that
            is zero or not finite.
        count (int): Clusters K, at least 1.
        num_iters (int): Updates at most; fewer if nothing moves any more. Defaults to 20.

    Returns:
        Clusters: Centroids (B, K, D) and which are used (B, K).

    Raises:
        ValueError: If the shapes do not fit or ``count`` is not positive.
    """
    if points.ndim != 3 or weights.shape != points.shape[:2] or count < 1:
        raise ValueError('Expected points (B, N, D), weights (B, N) and a positive count, but got '
                         f'{tuple(points.shape)}, {tuple(weights.shape)} and {count}.')
    if not points.shape[1]:
        centroids = points.new_zeros((len(points), count, points.shape[2]), dtype=torch.float32)
        return Clusters(centroids, centroids.new_zeros(centroids.shape[:2], dtype=torch.bool))
    with torch.autocast(points.device.type, enabled=False):
        finite = points.isfinite().all(2, keepdim=True)
        unit = F.normalize(points.float().masked_fill(~finite, 0.0), dim=2)
        weights = weights.float() * unit.any(2)
        centroids, used = _spread(unit, weights, count)
        for _ in range(num_iters):
            moved = _update(unit, weights, centroids, used)
            if torch.equal(moved, centroids):
                break
            centroids = moved
    return Clusters(centroids, used)


def _spread(unit: Tensor, weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Points far from one another, (B, K, D), and whether there was one that is new, (B, K)."""
    absent = weights <= 0  # (B, N)
    mean = torch.einsum('bn,bnd->bd', weights, unit)
    closeness = -torch.einsum('bnd,bd->bn', unit, mean)
    new = ~absent.all(1)
    chosen, used = [], []
    for step in range(count):
        used.append(new)
        index = closeness.masked_fill(absent, math.inf).argmin(1)
        chosen.append(unit[torch.arange(len(unit), device=unit.device), index] * new[:, None])
        similarity = torch.einsum('bnd,bd->bn', unit, chosen[-1])
        closeness = torch.maximum(closeness, similarity) if step else similarity
        new = new & (closeness.masked_fill(absent, math.inf).amin(1) < 1 - _EPSILON)
    return torch.stack(chosen, 1), torch.stack(used, 1)


def _update(unit: Tensor, weights: Tensor, centroids: Tensor, used: Tensor) -> Tensor:
    """Direction of the mean of each cluster's points; a cluster without points stays."""
    cosine = (unit @ centroids.transpose(1, 2)).masked_fill(~used[:, None], -math.inf)
    members = F.one_hot(cosine.argmax(2), used.shape[1]) * weights[..., None]  # (B, N, K)
    sums = members.transpose(1, 2) @ unit
    empty = torch.linalg.vector_norm(sums, dim=2, keepdim=True) < 1e-12
    return torch.where(empty, centroids, F.normalize(sums, dim=2))


def class_clusters(features: Tensor, weights: Tensor, count: int) -> Clusters:
    """The clusters of each class of an image.

    Args:
        features (Tensor): F_us (B, D, h, w).
        weights (Tensor): (B, C, h, w), how much of each cell the class covers, see
            :func:`mmseg_dhr.ops.class_area_fractions`.
        count (int): Clusters K of each class, K_fg of the paper.

    Returns:
        Clusters: Centroids (B, C, K, D) and which are used (B, C, K).

    Raises:
        ValueError: If the grids differ.
    """
    if features.shape[-2:] != weights.shape[-2:] or features.shape[0] != weights.shape[0]:
        raise ValueError('Expected features and weights on the same grid, '
                         f'but got {tuple(features.shape)} and {tuple(weights.shape)}.')
    batch, classes = weights.shape[:2]
    points = features.flatten(2).transpose(1, 2)[:, None].expand(-1, classes, -1, -1)
    found = spherical_kmeans(points.flatten(0, 1), weights.flatten(0, 1).flatten(1), count)
    return Clusters(*(part.unflatten(0, (batch, classes)) for part in found))


def select_debiased(candidates: Tensor, background: Tensor, keep: float) -> Tensor:
    """The centroids of a class that are least like the background.

    What counts is the mean cosine with the background of the whole data set, which is the cosine's
    product with one mean vector. The nearest background, the other reading, prefers rare things:
    whatever was seen once is far from everything.

    Args:
        candidates (Tensor): (M, D), of all images with the class.
        background (Tensor): (D,), mean of the background's unit features.
        keep (float): Share α to keep, in (0, 1]; at least one is kept.

    Returns:
        Tensor: (max(1, round(α M)), D), the least like the background first; (0, D) if M = 0.

    Raises:
        ValueError: If ``keep`` is out of range or the shapes do not fit.
    """
    if not 0 < keep <= 1:
        raise ValueError(f'Expected keep in (0, 1], but got {keep}.')
    if candidates.ndim != 2 or background.shape != candidates.shape[1:]:
        raise ValueError('Expected candidates (M, D) and background (D,), but got '
                         f'{tuple(candidates.shape)} and {tuple(background.shape)}.')
    similarity = F.normalize(candidates.float(), dim=1) @ background.float()
    return candidates[similarity.argsort(stable=True)[:max(1, round(keep * len(candidates)))]]


def centroid_similarity(features: Tensor, centroids: Sequence[Tensor]) -> Tensor:
    """Cosine of every pixel with the nearest of each class's centroids.

    Args:
        features (Tensor): (D, h, w).
        centroids (Sequence[Tensor]): For each of C classes (M_c, D) with M_c at least 1.

    Returns:
        Tensor: Float32 (C, h, w) in [-1, 1]; 0 where a feature is zero or not finite.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float().flatten(1), dim=0)  # (D, N)
        maps = [(F.normalize(one.float(), dim=1) @ unit).amax(0) for one in centroids]
        if not maps:
            return unit.new_zeros((0, *features.shape[1:]))
        return torch.nan_to_num(torch.stack(maps)).unflatten(1, features.shape[1:])


def remove_biased(mask: Tensor, similarity: Tensor, classes: Tensor, threshold: float,
                  fill: int = 0) -> Tensor:
    """Take the pixels from each class that are unlike its debiased centroids.

    Similarities are scaled first: 0 is the least of the image, 1 the most in the class's own
    region. So no class vanishes, however strange its looks.

    Args:
        mask (Tensor): Label mask (H, W).
        similarity (Tensor): (C, h, w) of :func:`centroid_similarity`.
        classes (Tensor): Long (C,), the label id of each map. Pixels of others stay.
        threshold (float): T in [0, 1) of the scaled similarity, below which a pixel is biased.
        fill (int): What a biased pixel becomes: the label id of the background, or 255 = ignore.
            Defaults to 0.

    Returns:
        Tensor: The debiased mask (H, W).

    Raises:
        ValueError: If ``threshold`` is out of range or the shapes do not fit.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f'Expected threshold in [0, 1), but got {threshold}.')
    if mask.ndim != 2 or similarity.ndim != 3 or classes.shape != similarity.shape[:1]:
        raise ValueError('Expected mask (H, W), similarity (C, h, w) and classes (C,), but got '
                         f'{tuple(mask.shape)}, {tuple(similarity.shape)}, '
                         f'{tuple(classes.shape)}.')
    if not len(classes):
        return mask.clone()
    maps = F.interpolate(similarity[None].float(), size=mask.shape, mode='bilinear',
                         align_corners=False)[0]
    region = mask == classes[:, None, None]  # (C, H, W)
    low = maps.amin((1, 2), keepdim=True)
    high = maps.masked_fill(~region, -math.inf).amax((1, 2), keepdim=True)
    biased = region & (maps < low + threshold * (high - low) - _EPSILON)
    return mask.masked_fill(biased.any(0), fill)
