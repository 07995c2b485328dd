"""Photos to time on, and class scores such as a network's CAMs give them.

Images of noise would not do: every pixel of them is a colour of its own, which makes the lattice of
the dense CRF several times larger than that of a photo.
"""
from __future__ import annotations

import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ...datasets.scenes import draw_scene
from ...formats import read_mask
from ...utils import UserError
from ..common import read_rgb

__all__ = ['Photo', 'class_scores', 'draw_photos', 'load_photos']

_SUFFIXES = ('.jpg', '.jpeg', '.png')
_MASK_FOLDERS = ('SegmentationClassAug', 'SegmentationClass')
# Cells of the class scores, in pixels: the stride of the network that they stand for.
_STRIDE = 16
_CLUSTERS = 4


class Photo(NamedTuple):
    """An image and what it shows.

    Attributes:
        name: Stem of the file.
        image: uint8 RGB (H, W, 3).
        mask: uint8 (H, W) of labels, 255 = unknown: the true mask, or clusters of colours.
    """
    name: str
    image: np.ndarray
    mask: np.ndarray

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.mask.size

    def scaled(self, factor: float) -> Photo:
        """The photo with its sides multiplied by ``factor``."""
        if factor == 1:
            return self
        height, width = (max(1, round(side * factor)) for side in self.mask.shape)
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        return Photo(self.name, cv2.resize(self.image, (width, height), interpolation=how),
                     cv2.resize(self.mask, (width, height), interpolation=cv2.INTER_NEAREST))


def load_photos(root: str | Path, count: int = 8, size: int | None = None) -> list[Photo]:
    """Read photos of a folder, spread over its list.

    Args:
        root: Folder of images, or one of VOC's layout, whose masks are read where there are any.
        count (int): Number of photos, at most. Defaults to 8.
        size (int, optional): Shrink them to this longer side. Defaults to None, as they are.

    Returns:
        list[Photo]: At least one.

    Raises:
        UserError: If there is no image, or one of the files is damaged.
    """
    root = Path(root)
    folder = root / 'JPEGImages' if (root / 'JPEGImages').is_dir() else root
    if not folder.is_dir():
        raise UserError(f'{root}: no such folder of photos.')
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise UserError(f'{folder}: expected photos ({", ".join(_SUFFIXES)}), but found none.')
    count = min(count, len(paths))
    chosen = [paths[i * len(paths) // count] for i in range(count)]
    return [_shrunk(_read(path, root), size) for path in chosen]


def draw_photos(count: int = 8, size: int = 320, seed: int = 0) -> list[Photo]:
    """The embedded scenes instead of photos.

    Args:
        count (int): Number of scenes. Defaults to 8.
        size (int): Side, pixels. Defaults to 320.
        seed (int): Of the drawing. Defaults to 0.
    """
    scenes = [draw_scene(np.random.default_rng([seed, i]), size) for i in range(count)]
    return [Photo(f'scene_{i}', scene.image, scene.mask) for i, scene in enumerate(scenes)]


def class_scores(photo: Photo, classes: int, seed: int = 0) -> np.ndarray:
    """Scores such as CAMs: the true classes, coarse, with noise.

    Args:
        photo (Photo): Its largest classes take the first channels.
        classes (int): Number of channels; those without a class in the photo hold noise alone.
        seed (int): Of the noise, uniform in 0..0.5 where a class has 1. Defaults to 0.

    Returns:
        np.ndarray: Float32 (C, H, W), positive, sums to 1 over classes.
    """
    rng = np.random.default_rng([seed, zlib.crc32(photo.name.encode())])
    height, width = photo.mask.shape
    grid = max(2, width // _STRIDE), max(2, height // _STRIDE)
    labels, areas = np.unique(photo.mask[photo.mask != 255], return_counts=True)
    labels = labels[np.argsort(-areas, kind='stable')]
    maps = np.zeros((classes, height, width), np.float32)
    for channel, label in enumerate(labels[:classes]):
        maps[channel] = photo.mask == label
    for channel in range(classes):
        coarse = cv2.resize(maps[channel], grid, interpolation=cv2.INTER_AREA)
        coarse += 0.5 * rng.random(coarse.shape, np.float32)
        maps[channel] = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    maps = maps.clip(1e-5)
    return maps / maps.sum(0)


def _read(path: Path, root: Path) -> Photo:
    image = read_rgb(path)
    for folder in _MASK_FOLDERS:
        file = root / folder / f'{path.stem}.png'
        if file.is_file():
            mask = read_mask(file)
            if mask.shape != image.shape[:2]:
                raise UserError(f"{file}: expected a mask of its image's size {image.shape[:2]} "
                                f'(H, W), but found {mask.shape}.')
            return Photo(path.stem, image, mask)
    return Photo(path.stem, image, _clusters(image))


def _shrunk(photo: Photo, size: int | None) -> Photo:
    return photo if size is None else photo.scaled(min(1, size / max(photo.mask.shape)))


def _clusters(image: np.ndarray) -> np.ndarray:
    """The nearest of a few typical colours, for a photo whose mask nobody drew."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(2, width // 8), max(2, height // 8)),
                       interpolation=cv2.INTER_AREA).reshape(-1, 3).astype(np.float32)
    cv2.setRNGSeed(0)
    rounds = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 1.0)
    _, _, centres = cv2.kmeans(small, min(_CLUSTERS, len(small)), None, rounds, 1,
                               cv2.KMEANS_PP_CENTERS)
    distances = [((image - centre)**2).sum(2) for centre in centres]
    return np.argmin(distances, 0).astype(np.uint8)
