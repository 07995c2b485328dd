"""What the drawn data sets share."""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

IGNORE = 255
_COLOURS = np.random.default_rng(7).integers(30, 226, (256, 3))


@dataclass(frozen=True)
class Drawn:
    """A drawn data set.

    Attributes:
        root: Its folder.
        train, val: Image ids.
        tags: Names of the foreground classes that each image shows, by image id.
        masks: Label ids as a network learns them, uint8 (H, W), 255 = ignored, by image id.
    """
    root: Path
    train: list[str] = field(default_factory=list)
    val: list[str] = field(default_factory=list)
    tags: dict[str, list[str]] = field(default_factory=dict)
    masks: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, split: str, image_id: str, mask: np.ndarray, classes: Sequence[str],
            background: int | None = None) -> None:
        """Enter an image; its tags are what the mask shows."""
        getattr(self, split).append(image_id)
        self.masks[image_id] = mask
        self.tags[image_id] = [classes[label].strip() for label in np.unique(mask)
                               if label not in (IGNORE, background)]

    def shown(self, split: str) -> list[str]:
        """Ids of the images with a tag."""
        return [image_id for image_id in getattr(self, split) if self.tags[image_id]]

    def write_tags(self) -> None:
        """Write ``image_labels.json`` of the training images, where the configs read it."""
        tags = {image_id: self.tags[image_id] for image_id in self.train}
        (self.root / 'image_labels.json').write_text(json.dumps(tags))


def side_lengths(rng: np.random.Generator) -> tuple[int, int]:
    """(H, W) of an image; every image has another size."""
    height, width = rng.integers(56, 73, 2)
    return int(height), int(width)


def boxes(rng: np.random.Generator, size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Two boxes (left, top, right, bottom) that do not touch."""
    height, width = size
    middle = width // 2
    return [(int(left), int(rng.integers(4, 16)), int(right), int(height - rng.integers(4, 16)))
            for left, right in ((4, middle - 4), (middle + 3, width - 3))]


def objects_mask(rng: np.random.Generator, size: tuple[int, int], labels: Sequence[int],
                 border: int = 0) -> np.ndarray:
    """Two objects on background 0, with a border of 255 if wanted."""
    mask = np.zeros(size, np.uint8)
    for label, (left, top, right, bottom) in zip(labels, boxes(rng, size), strict=False):
        mask[top - border:bottom + border, left - border:right + border] = IGNORE
        mask[top:bottom, left:right] = label
    return mask


def regions_mask(rng: np.random.Generator, size: tuple[int, int],
                 labels: Sequence[int]) -> np.ndarray:
    """Three regions that cover the image, but for a strip that is ignored."""
    ground, sky, thing = labels
    mask = np.full(size, ground, np.uint8)
    mask[:size[0] // 2] = sky
    left, top, right, bottom = boxes(rng, size)[0]
    mask[top:bottom, left:right] = thing
    mask[-3:] = IGNORE
    return mask


def save_photo(path: Path, mask: np.ndarray, rng: np.random.Generator, grey: bool = False) -> None:
    """A noisy JPEG in which each label has a colour of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(_COLOURS[mask] + rng.normal(0, 12, (*mask.shape, 3)), 0, 255)
    image = Image.fromarray(pixels.astype(np.uint8))
    (image.convert('L') if grey else image).save(path, quality=90)


def save_index_png(path: Path, mask: np.ndarray) -> None:
    """A mask without palette, as most data sets have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def save_list(path: Path, ids: Sequence[str]) -> None:
    """One id per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{image_id}\n' for image_id in ids))
