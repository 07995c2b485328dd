"""The steps of DHR (Section 3.2, Eqs. 2-5) over tensors.

Conventions. A batch holds B images; each has C channels, of which
``class_mask`` (B, C) says which are used: the classes that the image's tags
name and, where the data set has one, the background. ``classes`` (B, C) gives
the label id behind each channel. ``pixel_mask`` (B, h, w) is False on padding.
Boundary correction R_C stands between the steps and belongs to the caller,
because it reads the image:

    A --recover_seeds--> f_OT(A)*A --R_C--> M_seed --integrate_seeds--> M_init     Step 1, Eq. 2
    F_us, M_init --rebalance_uss--> S_us                                           Step 2, Eq. 3
    F_ws, M_init, S_us --rebalance_wss--> S_dh                                     Step 3, Eq. 4
    S_dh --R_C, labels_from_scores--> M_dh                                                 Eq. 5
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .class_pooling import class_area_fractions, class_average_pool, class_similarity
from .optimal_transport import transport_scores

__all__ = [
    'MARGINALS', 'Rebalanced', 'TransportSettings', 'class_marginal',
    'correlated_classes', 'integrate_seeds', 'labels_from_scores', 'rebalance_uss',
    'rebalance_wss', 'recover_seeds'
]

IGNORE = 255
MARGINALS = ('uniform', 'area', 'sqrt_area')


class TransportSettings(NamedTuple):
    """Settings of every OT in DHR.

    Attributes:
        reg: λ of Eq. 2.
        num_iters: Sinkhorn updates.
        marginal: Mass that each class receives in Steps 2 and 3, one of :data:`MARGINALS`:
            ``uniform`` (the paper), or following the areas of M_init.
    """
    reg: float = 0.1
    num_iters: int = 50
    marginal: str = 'uniform'


class Rebalanced(NamedTuple):
    """Result of Step 2: S_us and the similarity S it came from, both (B, C, h, w), centroids
    (B, C, D), classes with area (B, C)."""
    maps: Tensor
    similarity: Tensor
    centroids: Tensor
    class_mask: Tensor


def _transport(maps: Tensor, class_mask: Tensor, pixel_mask: Tensor, settings: TransportSettings,
               marginal: Tensor | None = None) -> Tensor:
    """f_OT over (B, C, h, w) maps."""
    factor = transport_scores(
        maps.flatten(2), settings.reg, marginal, class_mask, pixel_mask.flatten(1),
        settings.num_iters)
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


def class_marginal(area: Tensor, kind: str) -> Tensor | None:
    """Class masses for the transport from areas in M_init.

    Args:
        area (Tensor): (B, C), non-negative.
        kind (str): One of :data:`MARGINALS`.

    Returns:
        Tensor or None: (B, C), None for uniform.

    Raises:
        ValueError: If ``kind`` is unknown.
    """
    if kind not in MARGINALS:
        raise ValueError(f'Expected marginal to be one of {MARGINALS}, but got {kind!r}.')
    if kind == 'uniform':
        return None
    return area.sqrt() if kind == 'sqrt_area' else area


def _similarity(features: Tensor, init: Tensor, classes: Tensor, class_mask: Tensor,
                pixel_mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """CAP and cosine: maps (B, C, h, w), centroids, classes with area, areas (B, C)."""
    weights = class_area_fractions(init, classes, class_mask, features.shape[-2:])
    weights = weights * pixel_mask[:, None]
    centroids, present = class_average_pool(features, weights)
    return class_similarity(features, centroids), centroids, present, weights.sum((2, 3))


def rebalance_uss(features: Tensor, init: Tensor, classes: Tensor, class_mask: Tensor,
                  pixel_mask: Tensor,
                  settings: TransportSettings = TransportSettings()) -> Rebalanced:
    """Step 2, Eq. 3: ``S_us = f_OT(S) * S`` with ``S = ReLU(cos(F_us, CAP(F_us, M_init)))``.

    Args:
        features (Tensor): F_us (B, D, h, w).
        init (Tensor): M_init (B, H, W) label ids at any resolution; 255 counts for nothing.
        classes (Tensor): Long (B, C).
        class_mask (Tensor): Bool (B, C).
        pixel_mask (Tensor): Bool (B, h, w).
        settings (TransportSettings): λ, iterations, class marginals.

    Returns:
        Rebalanced: Maps in [0, 1]; a class without a pixel in M_init has an all-zero map.
    """
    similarity, centroids, present, area = _similarity(features, init, classes, class_mask,
                                                       pixel_mask)
    factor = _transport(similarity, present, pixel_mask, settings,
                        class_marginal(area, settings.marginal))
    return Rebalanced(factor * similarity, similarity, centroids, present)


def correlated_classes(centroids: Tensor, class_mask: Tensor, tau: float) -> Tensor:
    """Classes that the USS features confuse with another one: ``cos(V_i, V_j) > tau``, j != i.

    Args:
        centroids (Tensor): V_us (B, C, D).
        class_mask (Tensor): Bool (B, C).
        tau (float): Threshold of Eq. 4; 1 switches the WSS features off.

    Returns:
        Tensor: Bool (B, C).
    """
    unit = F.normalize(centroids.float(), dim=2)
    close = (unit @ unit.transpose(1, 2)) > tau
    pair = class_mask[:, :, None] & class_mask[:, None, :]
    itself = torch.eye(close.shape[1], dtype=torch.bool, device=close.device)
    return (close & pair & ~itself).any(2)


def rebalance_wss(uss: Rebalanced, features: Sequence[Tensor], init: Tensor, classes: Tensor,
                  pixel_masks: Sequence[Tensor], tau: float = 0.8,
                  settings: TransportSettings = TransportSettings()) -> Tensor:
    """Step 3, Eq. 4: ``S_dh = f_OT(S_ws) * S_us`` for the classes that USS cannot separate.

    Read literally, the indicator of Eq. 4 would erase every class that
    correlates with no other; Fig. 7 and the text ("conditionally applied") say
    that such a class keeps ``S_us``: its factor is 1.

    Args:
        uss (Rebalanced): Result of :func:`rebalance_uss`.
        features (Sequence[Tensor]): F_ws, one or more levels (B, D_l, h_l, w_l);
            their similarities are averaged on the grid of ``uss.maps``.
        init (Tensor): M_init (B, H, W).
        classes (Tensor): Long (B, C).
        pixel_masks (Sequence[Tensor]): Bool (B, h_l, w_l) of each level, then that of ``uss.maps``.
        tau (float): Threshold of the USS correlation. Defaults to 0.8.
        settings (TransportSettings): λ, iterations, class marginals.

    Returns:
        Tensor: S_dh (B, C, h, w) in [0, 1], on the grid of ``uss.maps``.

    Raises:
        ValueError: If the numbers of features and masks do not fit.
    """
    if not features or len(pixel_masks) != len(features) + 1:
        raise ValueError(f'Expected one pixel mask per level and one for the USS maps, but got '
                         f'{len(features)} levels and {len(pixel_masks)} masks.')
    size = uss.maps.shape[-2:]
    maps = uss.maps.new_zeros(uss.maps.shape)
    for level, mask in zip(features, pixel_masks[:-1], strict=True):
        similarity = _similarity(level, init, classes, uss.class_mask, mask)[0]
        maps = maps + F.interpolate(similarity, size=size, mode='bilinear', align_corners=False)
    maps = maps / len(features)
    area = class_area_fractions(init, classes, uss.class_mask, size)
    area = (area * pixel_masks[-1][:, None]).sum((2, 3))
    factor = _transport(maps, uss.class_mask, pixel_masks[-1], settings,
                        class_marginal(area, settings.marginal))
    applies = correlated_classes(uss.centroids, uss.class_mask, tau)[:, :, None, None]
    return torch.where(applies, factor * uss.maps, uss.maps)


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
