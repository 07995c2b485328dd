"""Masks and activation maps as RGB images."""
from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ..formats.masks import IGNORE_COLOUR

__all__ = ['IGNORE_COLOUR', 'cam_heatmap', 'colorize_mask', 'overlay']


def colorize_mask(mask: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Colours of a label mask.

    Args:
        mask (np.ndarray): Integers (H, W); a label outside the palette, such as 255, is drawn in
            :data:`IGNORE_COLOUR`.
        palette (Sequence): One (r, g, b) in [0, 255] per class.

    Returns:
        np.ndarray: uint8 RGB (H, W, 3).

    Raises:
        ValueError: If the mask is no map of integers.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in 'iu':
        raise ValueError(f'Expected an integer mask (H, W), but got {mask.dtype} {mask.shape}.')
    colours = np.array([*palette, IGNORE_COLOUR], np.uint8)
    last = len(colours) - 1
    return colours[np.where((mask >= 0) & (mask < last), mask, last)]


def overlay(image: np.ndarray, colours: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """Blend an image with colours of the same size.

    Args:
        image (np.ndarray): uint8 RGB (H, W, 3).
        colours (np.ndarray): uint8 RGB (H, W, 3).
        alpha (float): Weight of the colours in [0, 1]. Defaults to 0.5.

    Returns:
        np.ndarray: uint8 RGB (H, W, 3).

    Raises:
        ValueError: If the shapes differ or ``alpha`` is out of range.
    """
    if image.shape != colours.shape:
        raise ValueError(f'Expected colours of shape {image.shape}, but got {colours.shape}.')
    if not 0 <= alpha <= 1:
        raise ValueError(f'Expected alpha in [0, 1], but got {alpha}.')
    mixed = (1 - alpha) * image.astype(np.float32) + alpha * colours.astype(np.float32)
    return mixed.round().astype(np.uint8)


def cam_heatmap(cam: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
    """Heat map of an activation map, dark blue = 0 to dark red = 1.

    Args:
        cam (np.ndarray): Float (h, w) in [0, 1]; NaN is drawn as 0.
        image (np.ndarray, optional): uint8 RGB (H, W, 3) to lay the map on; the map is resized to
            it.

    Returns:
        np.ndarray: uint8 RGB (h, w, 3), or (H, W, 3) with an image.

    Raises:
        ValueError: If the map is not two-dimensional.
    """
    cam = np.nan_to_num(np.asarray(cam, np.float32)).clip(0, 1)
    if cam.ndim != 2:
        raise ValueError(f'Expected an activation map (h, w), but got shape {cam.shape}.')
    if image is not None:
        cam = cv2.resize(cam, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    bgr = cv2.applyColorMap((cam * 255).round().astype(np.uint8), cv2.COLORMAP_JET)
    heat = np.ascontiguousarray(bgr[..., ::-1])
    return heat if image is None else overlay(image, heat)
