"""Class activation maps of a trained CAM head, over scales and flips."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..formats import state_fingerprint, write_cam
from ..ops import fuse_cams
from .common import Photo, list_photos, open_shard, read_rgb

__all__ = ['multi_scale_cam', 'write_cams']


@torch.no_grad()
def multi_scale_cam(model: Any, image: np.ndarray, tags: Sequence[int],
                    scales: Sequence[float] = (1.0, ), flip: bool = True,
                    stride: int = 4) -> Tensor:
    """CAMs of the tagged classes of one image.

    Args:
        model (DualEncoderSegmentor): In eval mode.
        image (np.ndarray): uint8 RGB (H, W, 3).
        tags (Sequence[int]): Foreground label ids, sorted.
        scales (Sequence[float]): Factors on the image size. Defaults to (1.0,).
        flip (bool): Also look at the mirrored image. Defaults to True.
        stride (int): Step of the result in image pixels. Defaults to 4.

    Returns:
        Tensor: Float32 on the CPU, (len(tags), ceil(H / stride), ceil(W / stride)), in [0, 1].
    """
    height, width = image.shape[:2]
    grid = (-(-height // stride), -(-width // stride))
    if not tags:
        return torch.zeros((0, *grid))
    device = next(model.cam_head.parameters()).device
    pixels = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float()
    head = model.cam_head
    target = head.tag_targets([tags]).to(device)
    views, mirrored = [], []
    for scale in scales:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        scaled = F.interpolate(pixels, size=size, mode='bilinear', antialias=scale < 1)
        inputs = model.rgb_to_inputs(scaled)
        batch = torch.cat([inputs, inputs.flip(-1)]) if flip else inputs
        maps = head(model.extract_feat(batch))
        views += list(maps[:, None])
        mirrored += [False, True] if flip else [False]
    fused = fuse_cams(views, mirrored, grid, target)
    return fused[0, target[0].bool()].cpu()


def write_cams(model: Any, dataset: Any, out_dir: str | Path,
               scales: Sequence[float] = (1.0, ), flip: bool = True,
               overwrite: bool = False) -> Path:
    """Write ``{id}.npz`` for every image of a tagged data set; goes on where it stopped.

    Args:
        model (DualEncoderSegmentor): The trained model.
        dataset (TaggedDataset): The images and their tags.
        out_dir: Output folder.
        scales, flip: See :func:`multi_scale_cam`.
        overwrite (bool): Replace files of other settings. Defaults to False.

    Returns:
        Path: The folder.
    """
    settings = dict(kind='cam', scales=list(scales), flip=flip, weights=state_fingerprint(model))
    shard = open_shard(out_dir, list_photos(dataset), settings, '.npz', overwrite)
    model.eval()
    for photo in shard.progress('CAMs'):
        cam = multi_scale_cam(model, read_rgb(photo.path), photo.tags, scales, flip)
        write_cam(shard.output.path(photo.img_id), np.asarray(photo.tags, np.int64), cam.numpy())
    shard.finish()
    return Path(out_dir)


def photo_cam(model: Any, photo: Photo, scales: Sequence[float], flip: bool) -> np.ndarray:
    """CAM of one photo as float16, small enough to hand to another process."""
    return multi_scale_cam(model, read_rgb(photo.path), photo.tags, scales,
                           flip).numpy().astype(np.float16)
