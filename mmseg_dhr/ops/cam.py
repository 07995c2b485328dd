"""Class activation maps: normalisation, fusion over scales, background."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['add_background', 'fuse_cams', 'normalize_cam']


def normalize_cam(maps: Tensor, tags: Tensor, eps: float = 1e-5) -> Tensor:
    """``A = ReLU(maps) / max``, times the tag indicator.

    Args:
        maps (Tensor): Class maps (B, K, h, w) of the classifier.
        tags (Tensor): (B, K), 1 for a class that the image shows.
        eps (float): Lower clip of the maximum. Defaults to 1e-5.

    Returns:
        Tensor: Float32 (B, K, h, w) in [0, 1].

    Raises:
        ValueError: If the class counts differ.
    """
    if maps.shape[:2] != tags.shape:
        raise ValueError(f'Expected tags of shape {tuple(maps.shape[:2])}, '
                         f'but got {tuple(tags.shape)}.')
    maps = torch.nan_to_num(maps.float()).relu()
    maps = maps / maps.amax(dim=(2, 3), keepdim=True).clamp_min(eps)
    return maps * tags.to(maps)[:, :, None, None]


def fuse_cams(views: Sequence[Tensor], flipped: Sequence[bool], out_size: tuple[int, int],
              tags: Tensor) -> Tensor:
    """Mean of the rectified maps of several scales and flips, then normalised.

    Args:
        views (Sequence[Tensor]): Class maps (B, K, h_i, w_i) of one batch at several scales.
        flipped (Sequence[bool]): Whether the view was mirrored left-right.
        out_size (tuple): (H, W) of the result.
        tags (Tensor): (B, K) indicator.

    Returns:
        Tensor: Float32 (B, K, H, W) in [0, 1].

    Raises:
        ValueError: If there is no view, or ``flipped`` has another length.
    """
    if not views or len(views) != len(flipped):
        raise ValueError(f'Expected as many flags as views and at least one view, '
                         f'but got {len(views)} views and {len(flipped)} flags.')
    total = torch.stack([
        F.interpolate((maps.flip(-1) if mirrored else maps).float().relu(),
                      size=out_size, mode='bilinear', align_corners=False)
        for maps, mirrored in zip(views, flipped, strict=True)
    ]).sum(0)
    return normalize_cam(total, tags)


def add_background(foreground: Tensor, power: float | None = None,
                   constant: float | None = None) -> Tensor:
    """Put a background channel before the foreground maps.

    ``(1 - max_c)^power`` (PSA) or a ``constant`` (MCTformer); exactly one is given.

    Args:
        foreground (Tensor): (B, K, H, W) in [0, 1].
        power (float, optional): Exponent, > 0.
        constant (float, optional): Score in (0, 1).

    Returns:
        Tensor: (B, K + 1, H, W), background first, not normalised over classes.

    Raises:
        ValueError: If both or none of ``power`` and ``constant`` are given.
    """
    if (power is None) == (constant is None):
        raise ValueError(f'Expected exactly one of power and constant, but got power={power} '
                         f'and constant={constant}.')
    best = (foreground.amax(1, keepdim=True) if foreground.shape[1] else
            foreground.new_zeros((foreground.shape[0], 1, *foreground.shape[2:])))
    background = (1 - best)**power if power is not None else best * 0 + float(constant or 0)
    return torch.cat([background, foreground], dim=1)
