"""Colours, surfaces and backgrounds of the scenes.

Images of this module are float32 (size, size, 3), RGB, 0..1; shades are float32 (size, size)
factors around 1.
"""
from __future__ import annotations

import colorsys

import cv2
import numpy as np

from .shapes import SHAPES, coverage, local_coordinates

__all__ = ['background', 'fractal_noise', 'jittered_colour', 'muted_colour', 'surface']

_DISTRACTOR_SHAPES = ('disc', 'box', 'leaf', 'diamond', 'cross', 'ring')


def fractal_noise(rng: np.random.Generator, size: int, cells: int = 3) -> np.ndarray:
    """Smooth noise of several octaves.

    Args:
        rng (np.random.Generator): Source of randomness.
        size (int): Side of the image.
        cells (int): Grid cells of the coarsest octave. Defaults to 3.

    Returns:
        np.ndarray: Float32 (size, size), mean about 0, mostly within ±1.
    """
    noise = np.zeros((size, size), np.float32)
    amplitude = 0.6
    while cells < size / 2:
        octave = rng.standard_normal((cells + 1, cells + 1)).astype(np.float32)
        noise += amplitude * cv2.resize(octave, (size, size), interpolation=cv2.INTER_CUBIC)
        cells, amplitude = cells * 2, amplitude * 0.6
    return noise


def jittered_colour(rng: np.random.Generator, hsv: tuple[float, float, float]) -> np.ndarray:
    """RGB colour (3,) near a group's mean colour."""
    hue = (hsv[0] + rng.normal(0, 0.012)) % 1
    saturation, value = np.clip(rng.normal(hsv[1:], (0.05, 0.06)), 0.05, 0.95)
    return np.asarray(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)


def muted_colour(rng: np.random.Generator) -> np.ndarray:
    """RGB colour (3,) of low saturation and any hue."""
    hue, saturation, value = rng.uniform((0., 0.02, 0.25), (1., 0.26, 0.85))
    return np.asarray(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)


def _stripes(rng: np.random.Generator, u: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.sin(u * rng.uniform(low, high) + rng.uniform(0, 2 * np.pi))


def surface(rng: np.random.Generator, kind: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Shade of an object's surface.

    Args:
        rng (np.random.Generator): Source of randomness.
        kind (str): ``'grooves'`` (concentric), ``'planks'`` (parallel), ``'speckles'``,
            ``'highlight'`` (a bright spot) or ``'facet'`` (two halves of unlike tone).
        u (np.ndarray): First coordinate in the object's frame, (size, size).
        v (np.ndarray): Second coordinate.

    Returns:
        np.ndarray: Factor, float32 (size, size), around 1.
    """
    depth = rng.uniform(0.06, 0.16)
    if kind == 'grooves':
        return 1 + depth * _stripes(rng, np.hypot(u, v), 16, 24)
    if kind == 'planks':
        return 1 + depth * np.tanh(2 * _stripes(rng, v, 12, 18))
    if kind == 'speckles':
        noise = rng.standard_normal(u.shape).astype(np.float32)
        return 1 + 2.2 * depth * cv2.GaussianBlur(noise, (0, 0), 0.8)
    if kind == 'highlight':
        return 1 + 0.55 * np.exp(-((u + 0.3)**2 + (v + 0.3)**2) / 0.12)
    return 1 + (0.20 + depth) * np.tanh(8 * u)


def _background_pattern(rng: np.random.Generator, size: int) -> np.ndarray:
    centre = tuple(rng.uniform(0, size, 2))
    u, v = local_coordinates(size, centre, size / 2, rng.uniform(0, 2 * np.pi))
    kind = rng.integers(5)
    if kind == 0:
        return _stripes(rng, u, 8, 40)
    if kind == 1:
        return np.sign(_stripes(rng, u, 6, 16) * _stripes(rng, v, 6, 16))
    if kind == 2:
        return np.clip(fractal_noise(rng, size, cells=12), -1, 1)
    if kind == 3:
        return _stripes(rng, np.hypot(u, v), 8, 30)
    return np.zeros((size, size), np.float32)


def _paint_distractor(rng: np.random.Generator, image: np.ndarray) -> None:
    size = len(image)
    radius = size * rng.uniform(0.04, 0.22)
    u, v = local_coordinates(size, tuple(rng.uniform(0, size, 2)), radius,
                             rng.uniform(0, 2 * np.pi))
    shape = SHAPES[_DISTRACTOR_SHAPES[rng.integers(len(_DISTRACTOR_SHAPES))]]
    alpha = coverage(shape(u, v * rng.uniform(1., 1.8)), radius)[..., None]
    shade = 1 + rng.uniform(0, 0.15) * _stripes(rng, u, 4, 20)
    image += alpha * (muted_colour(rng) * shade[..., None] - image)


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Clutter that belongs to no class: gradients, patterns, noise and shapes in muted colours.

    Args:
        rng (np.random.Generator): Source of randomness.
        size (int): Side of the image.

    Returns:
        np.ndarray: Image, float32 (size, size, 3), RGB.
    """
    u, _ = local_coordinates(size, (size / 2, size / 2), size, rng.uniform(0, 2 * np.pi))
    blend = np.clip(u + 0.5 + 0.35 * fractal_noise(rng, size), 0, 1)[..., None]
    image = muted_colour(rng) * blend + muted_colour(rng) * (1 - blend)
    image *= 1 + rng.uniform(0.02, 0.14) * _background_pattern(rng, size)[..., None]
    for _ in range(rng.integers(5)):
        _paint_distractor(rng, image)
    return image.astype(np.float32)
