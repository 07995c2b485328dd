"""The steps of DHR (Section 3.2, Eqs. 2-5) over tensors.

Conventions. A batch holds B images; each has C channels, of which
``class_mask`` (B, C) says which are used: the classes that the image's tags
name and, where the data set has one, the background. ``classes`` (B, C) gives
the label id behind each channel. ``pixel_mask`` (B, h, w) is False on padding.
Boundary correction R_C stands between the steps and belongs to the caller,
because it reads the image:

    A --recover_seeds--> f_OT(A)*A --R_C--> M_seed --integrate_seeds--> M_init     Step 1, Eq. 2
    F_us, M_init --pooled_similarity--> S --rebalance_uss--> S_us                  Step 2, Eq. 3
    F_ws, M_init --pooled_similarity--> S_ws --rebalance_wss--> S_dh               Step 3, Eq. 4
    S_dh --R_C, labels_from_scores--> M_dh                                                 Eq. 5
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .class_pooling import (
    class_area_fractions,
    class_average_pool,
    class_similarity,
    majority_vote,
)
from .optimal_transport import min_max_normalize, transport_scores

__all__ = [
    'POOLINGS', 'VARIANTS', 'Pooled', 'TransportSettings', 'average_similarity',
    'class_correlation', 'correlation_groups', 'integrate_seeds', 'labels_from_scores',
    'pooled_similarity', 'rebalance_uss', 'rebalance_wss', 'recover_seeds'
]

IGNORE = 255
POOLINGS = ('area', 'majority')
VARIANTS = ('paper', 'grouped', 'components')


class TransportSettings(NamedTuple):
    """Settings of every OT in DHR.

    Attributes:
        reg: λ of Eq. 2.
        num_iters: Stop after so many Sinkhorn updates; None = converged. See
            :func:`mmseg_dhr.ops.sinkhorn`.
        relax: ρ of relaxed class masses; None = hard. See :func:`mmseg_dhr.ops.sinkhorn`.
        plan: ``min_max`` or ``raw``; see :func:`mmseg_dhr.ops.transport_scores`.
        enabled: False leaves the transport out: ``f_OT(S)`` becomes 1.
    """
    reg: float = 0.1
    num_iters: int | None = None
    relax: float | None = None
    plan: str = 'min_max'
    enabled: bool = True


class Pooled(NamedTuple):
    """Similarity S of every pixel with every class's centroid V, and what it was made of.

    Attributes:
        similarity: (B, C, h, w) in [0, 1].
        centroids: (B, C, D).
        class_mask: Bool (B, C): classes with area in M_init.
        area: (B, C), the class's area in M_init, in cells.
        mean: (B, D), mean feature of the image.
    """
    similarity: Tensor
    centroids: Tensor
    class_mask: Tensor
    area: Tensor
    mean: Tensor


def _transport(maps: Tensor, class_mask: Tensor, pixel_mask: Tensor, settings: TransportSettings,
               marginal: Tensor | None = None) -> Tensor:
    """f_OT over (B, C, h, w) maps."""
    if not settings.enabled:
        return torch.ones_like(maps)
    factor = transport_scores(
        maps.flatten(2), settings.reg, marginal, class_mask, pixel_mask.flatten(1),
        settings.num_iters, settings.relax, settings.plan)
    return factor.view(maps.shape)


def recover_seeds(cam: Tensor, class_mask: Tensor, pixel_mask: Tensor,
                  settings: TransportSettings = TransportSettings()) -> Tensor:
    """Step 1, inner part of Eq. 2: ``f_OT(A) * A``, brought back to a maximum of 1 per class.

    OT runs over the tagged foreground only and with uniform marginals: areas of a mask that lost
    a class say nothing about it. An image with a single tag keeps its CAM.

    Args:
        cam (Tensor): A, (B, C, h, w) in [0, 1], foreground channels only.
        class_mask (Tensor): Bool (B, C).
        pixel_mask (Tensor): Bool (B, h, w).
        settings (TransportSettings): λ and iterations.

    Returns:
        Tensor: Float32 (B, C, h, w) in [0, 1].
    """
    cam = torch.nan_to_num(cam.float()).masked_fill(~pixel_mask[:, None], 0.0)
    heat = _transport(cam, class_mask, pixel_mask, settings) * cam
    return heat / heat.amax(dim=(2, 3), keepdim=True).clamp_min(1e-5)


def integrate_seeds(base: Tensor, seeds: Tensor, recover: Tensor, classes: Tensor) -> Tensor:
    """Step 1: put the seeds of the classes to ``recover`` into M_base.

    Args:
        base (Tensor): M_base (B, H, W) label ids, 255 = ignore.
        seeds (Tensor): M_seed (B, H, W) label ids, 255 = no seed.
        recover (Tensor): Bool (B, C): the classes that M_base lost (merge ``vanished``), or all
            tagged ones (merge ``all``).
        classes (Tensor): Long (B, C).

    Returns:
        Tensor: M_init (B, H, W).
    """
    hit = (seeds[:, None] == classes[:, :, None, None]) & recover[:, :, None, None]
    return torch.where(hit.any(1), seeds, base)


def pooled_similarity(features: Tensor, init: Tensor, classes: Tensor, class_mask: Tensor,
                      pixel_mask: Tensor, pooling: str = 'area') -> Pooled:
    """CAP and cosine: ``S = ReLU(cos(F, CAP(F, M_init)))``, the inner part of Eqs. 3 and 4.

    Args:
        features (Tensor): F (B, D, h, w).
        init (Tensor): M_init (B, H, W) label ids at any resolution; 255 counts for nothing.
        classes (Tensor): Long (B, C).
        class_mask (Tensor): Bool (B, C).
        pixel_mask (Tensor): Bool (B, h, w).
        pooling (str): Weight of a class in a feature cell (App. A.1): ``area``, the share of the
            cell that it covers, or ``majority``, 1 for the class that covers most of it (which
            loses classes that dominate no cell). Defaults to ``area``.

    Returns:
        Pooled: A class without a pixel in M_init has an all-zero map.

    Raises:
        ValueError: If ``pooling`` is unknown.
    """
    if pooling not in POOLINGS:
        raise ValueError(f'Expected pooling to be one of {POOLINGS}, but got {pooling!r}.')
    area = class_area_fractions(init, classes, class_mask, features.shape[-2:])
    inside_area = area * pixel_mask[:, None]
    # A class may show in the part of a cell alone whose middle is beyond the image.
    area = torch.where(inside_area.sum((2, 3), keepdim=True) > 0, inside_area, area)
    weights = majority_vote(area) if pooling == 'majority' else area
    centroids, present = class_average_pool(features, weights)
    inside = pixel_mask[:, None].float()
    mean = class_average_pool(features, inside)[0][:, 0]
    return Pooled(class_similarity(features, centroids), centroids, present,
                  area.sum((2, 3)), mean)


def average_similarity(levels: Sequence[Pooled], size: Sequence[int]) -> Tensor:
    """S_ws of several feature levels: their mean on one grid, (B, C, h, w)."""
    maps = [F.interpolate(level.similarity, size=tuple(size), mode='bilinear',
                          align_corners=False) for level in levels]
    return torch.stack(maps).mean(0)


def rebalance_uss(uss: Pooled, pixel_mask: Tensor,
                  settings: TransportSettings = TransportSettings(),
                  marginal: Tensor | None = None) -> Tensor:
    """Step 2, Eq. 3: ``S_us = f_OT(S) * S``.

    Args:
        uss (Pooled): Of the USS features.
        pixel_mask (Tensor): Bool (B, h, w).
        settings (TransportSettings): Of the transport.
        marginal (Tensor, optional): Class masses (B, C). Defaults to None, uniform.

    Returns:
        Tensor: S_us (B, C, h, w) in [0, 1].
    """
    return uss.similarity * _transport(uss.similarity, uss.class_mask, pixel_mask, settings,
                                       marginal)


def class_correlation(uss: Pooled, center: Tensor | None = None) -> Tensor:
    """``cos(V_i, V_j)`` of the USS centroids (Eq. 4, Fig. 11); 0 where a class has no centroid.

    Args:
        uss (Pooled): Of the USS features.
        center (Tensor, optional): (B, D) or (D,), subtracted from the centroids first: the
            features of some ViTs share a direction that makes every pair of classes similar.

    Returns:
        Tensor: (B, C, C) in [-1, 1].
    """
    centroids = uss.centroids.float()
    if center is not None:
        centroids = centroids - center.float().to(centroids.device).view(-1, 1, centroids.shape[2])
    unit = F.normalize(centroids, dim=2) * uss.class_mask[:, :, None]
    with torch.autocast(unit.device.type, enabled=False):
        return unit @ unit.transpose(1, 2)


def correlation_groups(correlation: Tensor, tau: float, variant: str) -> Tensor:
    """Which classes are separated from one another by the WSS features (Eq. 4).

    Args:
        correlation (Tensor): (B, C, C) of :func:`class_correlation`.
        tau (float): Two classes belong together when they correlate above it; 1 switches the
            WSS features off.
        variant (str): ``paper``: a single group, of all classes that correlate with any other.
            ``grouped``: one group per class i, of i and the classes j > i that correlate with
            it; groups can overlap, and depend on the order of the classes. ``components``: the
            connected components of the graph of correlations, so that each class is in one group
            at most, whatever the order.

    Returns:
        Tensor: Bool (B, G, C), a row per group; groups of fewer than two classes are empty.

    Raises:
        ValueError: If ``variant`` is unknown.
    """
    if variant not in VARIANTS:
        raise ValueError(f'Expected variant to be one of {VARIANTS}, but got {variant!r}.')
    count = correlation.shape[1]
    itself = torch.eye(count, dtype=torch.bool, device=correlation.device)
    close = (correlation > tau) & ~itself
    if variant == 'paper':
        return close.any(2)[:, None]
    groups = close | itself
    if variant == 'components':
        for _ in range(max(1, (count - 1).bit_length())):  # paths double in length
            groups = (groups.float() @ groups.float()) > 0
    upper = torch.ones_like(itself).triu()
    if variant == 'components':
        first = ~(groups & upper.T & ~itself).any(2, keepdim=True)  # nobody before it
        groups = groups & first
    else:
        groups = groups & upper
    return groups & (groups.sum(2, keepdim=True) > 1)


def rebalance_wss(scores: Tensor, wss: Tensor, groups: Tensor, class_mask: Tensor,
                  pixel_mask: Tensor, variant: str = 'paper',
                  settings: TransportSettings = TransportSettings(),
                  marginal: Tensor | None = None) -> Tensor:
    """Step 3, Eq. 4: the WSS features separate the classes that the USS features confuse.

    ``paper``: ``S_dh = f_OT(S_ws) * S_us`` where the pair indicator of Eq. 4 holds. Read literally,
    the indicator would erase every class that correlates with no other; Fig. 7 and the text
    ("conditionally applied") say that such a class keeps ``S_us``: its factor is 1. The transport
    runs over all classes of the image.

    ``grouped`` and ``components``: maps are min-max normalised, ``H[g] *= f_OT(S_ws[g])`` within
    each group g in turn, then one transport over all classes, ``H *= f_OT(H)``.

    Args:
        scores (Tensor): (B, C, h, w): S_us for ``paper``, the similarity S of the USS features
            for the others, which transport once at the end.
        wss (Tensor): S_ws (B, C, h, w).
        groups (Tensor): Bool (B, G, C) of :func:`correlation_groups`.
        class_mask (Tensor): Bool (B, C): classes with area in M_init.
        pixel_mask (Tensor): Bool (B, h, w).
        variant (str): As for the groups. Defaults to ``paper``.
        settings (TransportSettings): Of the transport; where it is off, S_ws itself is the factor.
        marginal (Tensor, optional): Class masses (B, C). Defaults to None, uniform.

    Returns:
        Tensor: S_dh (B, C, h, w) in [0, 1].
    """
    if variant == 'paper':
        factor = _transport(wss, class_mask, pixel_mask, settings, marginal)
        factor = factor if settings.enabled else wss
        return torch.where(groups[:, 0, :, None, None], factor * scores, scores)
    inside = pixel_mask.flatten(1)
    maps = min_max_normalize(scores.flatten(2), inside).view(scores.shape)
    wss = min_max_normalize(wss.flatten(2), inside).view(wss.shape)
    maps = maps * _group_factor(wss, groups, pixel_mask, settings, marginal)
    maps = maps * _transport(maps, class_mask, pixel_mask, settings, marginal)
    return min_max_normalize(maps.flatten(2), inside).view(maps.shape)


def _group_factor(wss: Tensor, groups: Tensor, pixel_mask: Tensor, settings: TransportSettings,
                  marginal: Tensor | None) -> Tensor:
    """Product over the groups of ``f_OT(S_ws[g])``, 1 outside of g; every group is an image."""
    count = groups.shape[1]
    each = wss.repeat_interleave(count, 0)  # (B G, C, h, w)
    if settings.enabled:
        each = _transport(
            each, groups.flatten(0, 1), pixel_mask.repeat_interleave(count, 0), settings,
            None if marginal is None else marginal.repeat_interleave(count, 0))
    each = each.unflatten(0, (-1, count))  # (B, G, C, h, w)
    return torch.where(groups[..., None, None], each, 1.0).prod(1)


def labels_from_scores(scores: Tensor, classes: Tensor, class_mask: Tensor,
                       pixel_mask: Tensor) -> Tensor:
    """Eq. 5, outer part: argmax over the used channels.

    Args:
        scores (Tensor): (B, C, H, W), non-negative.
        classes (Tensor): Long (B, C).
        class_mask (Tensor): Bool (B, C).
        pixel_mask (Tensor): Bool (B, H, W).

    Returns:
        Tensor: Long (B, H, W); 255 on padding and where no class has any score.
    """
    scores = torch.nan_to_num(scores.float()).masked_fill(~class_mask[:, :, None, None], 0.0)
    best, channel = scores.max(1)
    labels = torch.gather(classes, 1, channel.flatten(1)).view(channel.shape)
    return labels.masked_fill(~pixel_mask | (best <= 0), IGNORE)
