"""Boundary maps of a data set, predicted by a network that learned them on base classes (RETAB)."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..formats import read_mask, state_fingerprint, write_mask
from ..utils import UserError
from .common import Photo, in_background, list_photos, open_shard

__all__ = ['read_boundary', 'write_boundaries']

_GREY = [[level] * 3 for level in range(256)]


@torch.no_grad()
def write_boundaries(model: Any, dataset: Any, out_dir: str | Path, overwrite: bool = False,
                     batch_size: int = 1) -> Path:
    """Write ``{id}.png``, probability times 255, for every image; goes on where it stopped.

    Args:
        model (BoundaryNetwork): The trained network.
        dataset (TaggedDataset): The images.
        out_dir: Output folder.
        overwrite (bool): Replace files of other settings. Defaults to False.
        batch_size (int): Images of one size that go through the network together. Defaults to 1.

    Returns:
        Path: The folder.
    """
    shard = open_shard('boundaries', out_dir, list_photos(dataset),
                       dict(kind='boundaries', weights=state_fingerprint(model)), '.png', overwrite,
                       tagged=False)
    device = next(model.parameters()).device
    model.eval()
    with in_background() as submit:
        for photos, images in shard.images(batch_size):
            pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous()
            found = model.boundary(model.rgb_to_inputs(pixels))
            levels = (255 * found).round().byte().cpu().numpy()
            for photo, level in zip(photos, levels, strict=True):
                submit(write_mask, shard.output.path(photo.img_id), np.ascontiguousarray(level),
                       _GREY)
    shard.finish()
    return Path(out_dir)


def read_boundary(folder: str | Path, photo: Photo, size: Sequence[int]) -> np.ndarray:
    """The boundary map of an image, uint8 (H, W), probability times 255.

    Raises:
        UserError: If it is missing or has another size than the image.
    """
    path = Path(folder) / f'{photo.img_id}.png'
    if not path.is_file():
        raise UserError(f'{path}: no boundary map for image {photo.img_id}. Make them with '
                        '`python tools/make_boundaries.py`.')
    boundary = read_mask(path)
    if boundary.shape != tuple(size):
        raise UserError(f'{path}: expected a boundary map of (height, width) = {tuple(size)}, but '
                        f'found {boundary.shape}.')
    return boundary
