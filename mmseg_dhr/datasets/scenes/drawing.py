"""Draw one scene: an image, its label mask and its tags."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .classes import CLASSES, STYLES
from .composition import SceneObject, compose
from .shapes import local_coordinates
from .textures import background, fractal_noise, jittered_colour, surface

__all__ = ['MIN_SIZE', 'Scene', 'draw_scene']

MIN_SIZE = 64  # below this a mark is smaller than its own one-pixel edge
_IGNORE = 255


@dataclass(frozen=True)
class Scene:
    """One drawn scene.

    Args:
        image (np.ndarray): Uint8 (size, size, 3), RGB.
        mask (np.ndarray): Uint8 (size, size), label indices; 255 on object borders.
        tags (tuple[int, ...]): Sorted foreground label indices in the mask.
    """
    image: np.ndarray
    mask: np.ndarray
    tags: tuple[int, ...]


def draw_scene(rng: np.random.Generator, size: int = 112) -> Scene:
    """Draw one scene.

    Args:
        rng (np.random.Generator): The only source of randomness.
        size (int): Side of the square image in pixels, at least 64. Defaults to 112.

    Returns:
        Scene: Image, mask and tags. Every tag has pixels in the mask.

    Raises:
        ValueError: If ``size`` is too small.
    """
    if size < MIN_SIZE:
        raise ValueError(f'Expected `size` to be at least {MIN_SIZE}, but got {size}.')
    objects = compose(rng, size)
    image = background(rng, size)
    instances = np.zeros((size, size), np.uint8)
    shadow_angle = rng.uniform(0, 2 * np.pi)
    for number, item in enumerate(objects, 1):
        alpha = item.alpha(size)
        _paint(rng, image, item, alpha, shadow_angle)
        instances[alpha > 0.5] = number
    labels = np.asarray([0] + [item.label for item in objects], np.uint8)
    mask = labels[instances]
    mask[_borders(instances)] = _IGNORE
    tags = tuple(sorted({item.label for item in objects}))
    return Scene(_photograph(rng, image), mask, tags)


def _paint(rng: np.random.Generator, image: np.ndarray, item: SceneObject, alpha: np.ndarray,
           shadow_angle: float) -> None:
    """Draw one object and its shadow over ``image``, in place."""
    size = len(image)
    scene_class = CLASSES[item.label - 1]
    style = STYLES[scene_class.group]
    length = 0.12 * item.radius
    shift = np.array([[1, 0, length * np.cos(shadow_angle)],
                      [0, 1, length * np.sin(shadow_angle)]], np.float32)
    shadow = cv2.GaussianBlur(cv2.warpAffine(alpha, shift, (size, size)), (0, 0),
                              0.06 * item.radius + 0.5)
    image *= 1 - rng.uniform(0.15, 0.40) * shadow[..., None]

    into_shadow, _ = local_coordinates(size, item.centre, item.radius, shadow_angle)
    shade = surface(rng, style.texture, *item.frame(size)) * (1 - 0.12 * into_shadow)
    colour = jittered_colour(rng, style.hsv) * shade[..., None]
    mark = item.mark_alpha(size)
    if mark is not None:
        tone = (rng.uniform(0.84, 0.98, 3) if scene_class.light_mark else
                rng.uniform(0.04, 0.16, 3)).astype(np.float32)
        colour += mark[..., None] * (tone - colour)
    image += alpha[..., None] * (colour - image)


def _borders(instances: np.ndarray) -> np.ndarray:
    """One-pixel lines where one object or the background ends and another begins."""
    border = np.zeros(instances.shape, bool)
    border[:, :-1] |= instances[:, :-1] != instances[:, 1:]
    border[:-1] |= instances[:-1] != instances[1:]
    return border


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Illumination, colour cast, blur and noise of a camera; float 0..1 to uint8."""
    size = len(image)
    u, _ = local_coordinates(size, (size / 2, size / 2), size, rng.uniform(0, 2 * np.pi))
    light = rng.uniform(0.75, 1.15) * (1 + rng.uniform(0, 0.35) * u)
    light += 0.04 * fractal_noise(rng, size)
    image = image * light[..., None] * rng.normal(1, 0.04, 3).astype(np.float32)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.7))
    image = image + rng.normal(0, rng.uniform(0.008, 0.03), image.shape)
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
