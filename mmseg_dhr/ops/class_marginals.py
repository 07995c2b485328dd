"""How much of an image each class receives from the optimal transport."""
from __future__ import annotations

import torch
from torch import Tensor

__all__ = ['MARGINALS', 'class_marginal']

MARGINALS = ('uniform', 'area', 'sqrt_area', 'sqrt_foreground', 'shares')


def class_marginal(kind: str, area: Tensor, class_mask: Tensor, background: bool = True,
                   shares: Tensor | None = None, floor: float = 0.0) -> Tensor | None:
    """Mass of each class for :func:`mmseg_dhr.ops.sinkhorn`.

    =================== ====================================================================
    ``uniform``         1 / C each (the paper, Eq. 2)
    ``area``            the class's area in the mask that is refined
    ``sqrt_area``       square root of the area
    ``sqrt_foreground`` the background its area; the foreground classes share the rest by the
                        square roots of theirs
    ``shares``          given from outside, for example estimated by a segmentor
    =================== ====================================================================

    Args:
        kind (str): One of :data:`MARGINALS`.
        area (Tensor): (B, C), non-negative, in any unit.
        class_mask (Tensor): Bool (B, C): the classes that take part.
        background (bool): Whether channel 0 is the background. Defaults to True.
        shares (Tensor, optional): (B, C) for ``shares``. An image whose shares are all zero
            falls back to ``area``.
        floor (float): No class that takes part receives less than this share, in [0, 1), or than
            an equal one if there are too many; the rest is shared out as before. Defaults to 0.

    Returns:
        Tensor or None: (B, C) that sums to 1 over the classes that take part; None for uniform.

    Raises:
        ValueError: If ``kind`` is unknown or ``shares`` are missing.
    """
    if kind not in MARGINALS:
        raise ValueError(f'Expected marginal to be one of {MARGINALS}, but got {kind!r}.')
    if kind == 'uniform':
        return None
    area = _normalized(area.float(), class_mask)
    if kind == 'shares':
        if shares is None:
            raise ValueError("The marginal 'shares' needs the shares of the classes.")
        given = _normalized(shares.float().to(area.device), class_mask)
        mass = torch.where(given.sum(1, keepdim=True) > 0, given, area)
    elif kind == 'sqrt_area':
        mass = area.sqrt()
    elif kind == 'sqrt_foreground':
        mass = _sqrt_foreground(area, background)
    else:
        mass = area
    mass = _normalized(mass, class_mask)
    if floor:
        count = class_mask.sum(1, keepdim=True).clamp_min(1)
        least = (1 / count).clamp_max(floor)
        mass = (least + (1 - count * least) * mass) * class_mask
    return mass


def _normalized(mass: Tensor, class_mask: Tensor) -> Tensor:
    mass = torch.nan_to_num(mass).clamp_min(0) * class_mask
    return mass / mass.sum(1, keepdim=True).clamp_min(1e-12)


def _sqrt_foreground(area: Tensor, background: bool) -> Tensor:
    first = 1 if background else 0
    ground, objects = area[:, :first], area[:, first:].sqrt()
    rest = 1 - ground.sum(1, keepdim=True)
    return torch.cat([ground, objects / objects.sum(1, keepdim=True).clamp_min(1e-12) * rest], 1)
