"""Signed distances to the outlines and marks of the scenes' objects."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ['SHAPES', 'coverage', 'local_coordinates']


def local_coordinates(size: int, centre: tuple[float, float], radius: float,
                      angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of all pixels in the frame of one object.

    Args:
        size (int): Side of the image.
        centre (tuple[float, float]): (x, y) in continuous pixel coordinates.
        radius (float): Length of the frame's unit in pixels.
        angle (float): Rotation in radians.

    Returns:
        tuple[np.ndarray, np.ndarray]: u and v, float32 (size, size).
    """
    grid = np.arange(size, dtype=np.float32) + 0.5
    x, y = (grid[None] - centre[0]) / radius, (grid[:, None] - centre[1]) / radius
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return (cos * x + sin * y).astype(np.float32), (cos * y - sin * x).astype(np.float32)


def coverage(distance: np.ndarray, radius: float) -> np.ndarray:
    """Share of each pixel that lies inside an outline.

    Args:
        distance (np.ndarray): Signed distance in object units, negative inside.
        radius (float): Length of the unit in pixels.

    Returns:
        np.ndarray: Values in [0, 1] with an edge of one pixel.
    """
    return np.clip(0.5 - distance * radius, 0, 1)


def _rectangle(u: np.ndarray, v: np.ndarray, half_u: float, half_v: float,
               corner: float = 0.) -> np.ndarray:
    du, dv = np.abs(u) - (half_u - corner), np.abs(v) - (half_v - corner)
    outside = np.hypot(np.maximum(du, 0), np.maximum(dv, 0))
    return outside + np.minimum(np.maximum(du, dv), 0) - corner


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - 1


def _box(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _rectangle(u, v, 1., 0.72, 0.15)


def _leaf(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # The common part of two circles through (±length, 0) that bulge to v = ±width.
    length, width = 1.2, 0.68
    offset = (length**2 - width**2) / (2 * width)
    return np.hypot(u, np.abs(v) + offset) - (width + offset)


def _diamond(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (np.abs(u) + 1.2 * np.abs(v) - 1.15) * 0.65


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(u, v) - 0.72) - 0.26


def _dot(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - 0.78


def _bar(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _rectangle(u, v, 1.05, 0.38)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(_rectangle(u, v, 1., 0.28), _rectangle(u, v, 0.28, 1.))


def _chevron(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    arm = np.abs(u - 0.9 * np.abs(v) + 0.4) / 1.35 - 0.27
    return np.maximum(arm, np.abs(v) - 0.95)


def _twin(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(np.abs(u) - 0.62, v) - 0.46


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = dict(
    disc=_disc, box=_box, leaf=_leaf, diamond=_diamond,
    ring=_ring, dot=_dot, bar=_bar, cross=_cross, chevron=_chevron, twin=_twin)
"""Signed distance (object units, negative inside) as a function of u and v."""
