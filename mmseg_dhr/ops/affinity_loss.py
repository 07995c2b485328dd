"""What teaches affinities: pairs of neighbours whose labels are known (PSA, IRNet)."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ['AffinityLosses', 'affinity_losses', 'agreed_labels']


class AffinityLosses(NamedTuple):
    """Mean cross-entropies over three kinds of pairs; 0 where there is no pair of the kind.

    Attributes:
        background: Both pixels are background.
        foreground: Both are of one foreground class.
        negative: They are of different classes.
    """
    background: Tensor
    foreground: Tensor
    negative: Tensor

    @property
    def total(self) -> Tensor:
        """``bg/4 + fg/4 + neg/2``, as both papers weight them."""
        return self.background / 4 + self.foreground / 4 + self.negative / 2


def affinity_losses(affinity: Tensor, labels: Tensor, offsets: Sequence[tuple[int, int]],
                    background_index: int | None = 0, ignore_index: int = 255,
                    eps: float = 1e-5) -> AffinityLosses:
    """``-log a`` of pairs of one class, ``-log(1 - a)`` of pairs of two, over a batch.

    Args:
        affinity (Tensor): (B, K, h, w) in [0, 1], of :func:`affinity_from_features` or
            :func:`affinity_from_boundary`; computed in float32.
        labels (Tensor): Integers (B, h, w) on the same grid.
        offsets (Sequence[tuple[int, int]]): The K steps (dy, dx) of the pairs.
        background_index (int, optional): Label of the background; None = there is none. Defaults
            to 0.
        ignore_index (int): A pair with such a pixel counts for nothing. Defaults to 255.
        eps (float): Added inside the logarithms. Defaults to 1e-5.

    Returns:
        AffinityLosses: Three scalars.

    Raises:
        ValueError: If the shapes do not fit.
    """
    batch, _, *grid = affinity.shape if affinity.ndim == 4 else (0, 0)
    expected = (batch, len(offsets), *grid)
    if affinity.shape != expected or labels.shape != (batch, *grid):
        raise ValueError(f'Expected an affinity (B, {len(offsets)}, h, w) and labels (B, h, w), '
                         f'but got {tuple(affinity.shape)} and {tuple(labels.shape)}.')
    affinity = affinity.float()
    there = torch.stack([_shifted(labels, offset, ignore_index) for offset in offsets], 1)
    here = labels[:, None]
    known = (here != ignore_index) & (there != ignore_index)  # (B, K, h, w)
    same = known & (here == there)
    of_background = torch.zeros_like(here, dtype=torch.bool) if background_index is None else \
        here == background_index
    attract, repel = -(affinity + eps).log(), -(1 - affinity + eps).log()
    return AffinityLosses(_mean(attract, same & of_background),
                          _mean(attract, same & ~of_background), _mean(repel, known & ~same))


def agreed_labels(first: Tensor, second: Tensor, ignore_index: int = 255) -> Tensor:
    """The label where two label maps agree, ``ignore_index`` elsewhere.

    With one map that has much background and one that has little, what stays is sure of being an
    object, or of being none (PSA, section 3.2).

    Args:
        first, second (Tensor): Integers of one shape.
        ignore_index (int): Defaults to 255.
    """
    return torch.where(first == second, first, torch.full_like(first, ignore_index))


def _shifted(labels: Tensor, offset: tuple[int, int], fill: int) -> Tensor:
    """``result[y, x] = labels[y + dy, x + dx]``, ``fill`` where that lies outside."""
    height, width = labels.shape[-2:]
    dy, dx = (max(-size, min(size, step)) for step, size in zip(offset, (height, width),
                                                                strict=True))
    result = torch.full_like(labels, fill)
    rows = slice(max(-dy, 0), height - max(dy, 0))
    columns = slice(max(-dx, 0), width - max(dx, 0))
    result[:, rows, columns] = labels[:, max(dy, 0):height + min(dy, 0),
                                      max(dx, 0):width + min(dx, 0)]
    return result


def _mean(loss: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the chosen pairs; no pair of a padded corner makes a NaN."""
    return torch.where(chosen, loss, 0.0).sum() / chosen.sum().clamp_min(1)
