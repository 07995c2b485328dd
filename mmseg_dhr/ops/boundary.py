"""Class-agnostic boundaries of label maps (RETAB, Section 3.2)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['BOUNDARY_SOURCES', 'boundary_loss', 'boundary_target', 'label_edges']

BOUNDARY_SOURCES = ('ignore', 'edges')


def label_edges(labels: Tensor, radius: int = 2, ignore_index: int = 255) -> Tensor:
    """Pixels near another label.

    Args:
        labels (Tensor): Integers (B, H, W).
        radius (int): A pixel is an edge if a labelled pixel of another label lies in the square of
            side 2 radius + 1 around it; at least 1. Defaults to 2.
        ignore_index (int): Neither is an edge nor makes one. Defaults to 255.

    Returns:
        Tensor: Bool (B, H, W).

    Raises:
        ValueError: If the radius is below 1.
    """
    if radius < 1:
        raise ValueError(f'Expected a radius of at least 1, but got {radius}.')
    known = labels != ignore_index
    # The highest and the lowest label around a pixel; unknown pixels lose against every label.
    low = labels.float().masked_fill(~known, float('inf'))
    high = labels.float().masked_fill(~known, float('-inf'))
    side = 2 * radius + 1
    highest = F.max_pool2d(high[:, None], side, 1, radius)[:, 0]
    lowest = -F.max_pool2d(-low[:, None], side, 1, radius)[:, 0]
    return known & (highest != lowest)


def boundary_target(labels: Tensor, source: str = 'ignore', radius: int = 2,
                    ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """What a boundary network shall predict for annotated images.

    Args:
        labels (Tensor): True masks, integers (B, H, W).
        source (str): 'ignore': the annotators' band of ``ignore_index`` between objects, as in the
            masks of PASCAL VOC. 'edges': :func:`label_edges`, for masks without such a band, as
            SBD's; unlabelled pixels are then not trained on. Defaults to 'ignore'.
        radius (int): For 'edges'. Defaults to 2.
        ignore_index (int): Defaults to 255.

    Returns:
        tuple[Tensor, Tensor]: Bool (B, H, W): the boundary; the pixels that count.

    Raises:
        ValueError: If the source is another.
    """
    if source not in BOUNDARY_SOURCES:
        raise ValueError(f'Expected source to be one of {BOUNDARY_SOURCES}, but got {source!r}.')
    unlabelled = labels == ignore_index
    if source == 'ignore':
        return unlabelled, torch.ones_like(unlabelled)
    return label_edges(labels, radius, ignore_index), ~unlabelled


def boundary_loss(logits: Tensor, boundary: Tensor, counted: Tensor,
                  foreground: Tensor) -> Tensor:
    r"""The balanced cross entropy of three sets of pixels (RETAB, Section 3.2).

    ``-mean_bd log p - ½ mean_fg log(1 - p) - ½ mean_bg log(1 - p)``: boundary, non-boundary
    foreground and non-boundary background, over the whole batch. An empty set adds nothing.

    Args:
        logits (Tensor): Of the boundary, before the sigmoid, (B, H, W); computed in float32.
        boundary (Tensor): Bool (B, H, W).
        counted (Tensor): Bool (B, H, W), False where nothing is known.
        foreground (Tensor): Bool (B, H, W), True where the label is an object.

    Returns:
        Tensor: Scalar, 0 (with a gradient of 0) if no pixel counts.
    """
    logits = logits.float()
    inside = counted & ~boundary
    return (_mean(F.softplus(-logits), counted & boundary)
            + 0.5 * _mean(F.softplus(logits), inside & foreground)
            + 0.5 * _mean(F.softplus(logits), inside & ~foreground))


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return values.masked_fill(~chosen, 0.0).sum() / chosen.sum().clamp_min(1)
