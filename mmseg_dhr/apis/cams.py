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
from ..ops import Climbing, climb, fuse_cams
from ..utils.checks import check_scales
from .common import in_background, list_photos, open_shard

__all__ = ['multi_scale_cam', 'multi_scale_cams', 'write_cams']


def multi_scale_cam(model: Any, image: np.ndarray, tags: Sequence[int],
                    scales: Sequence[float] = (1.0, ), flip: bool = True,
                    stride: int = 4, climbing: Climbing | None = None) -> Tensor:
    """CAMs of the tagged classes of one image, uint8 RGB (H, W, 3).

    See :func:`multi_scale_cams`.
    """
    return multi_scale_cams(model, image[None], [tags], scales, flip, stride, climbing)[0]


@torch.no_grad()
def multi_scale_cams(model: Any, images: np.ndarray, tags: Sequence[Sequence[int]],
                     scales: Sequence[float] = (1.0, ), flip: bool = True,
                     stride: int = 4, climbing: Climbing | None = None) -> list[Tensor]:
    """CAMs of the tagged classes of images of one size.

    Args:
        model: In eval mode. Has ``cam_maps(inputs)``, ``cam_head`` and ``rgb_to_inputs(images)``,
            as :class:`DualEncoderSegmentor` does.
        images (np.ndarray): uint8 RGB (B, H, W, 3).
        tags (Sequence[Sequence[int]]): Foreground label ids of each image, sorted.
        scales (Sequence[float]): Factors on the image size. Defaults to (1.0,).
        flip (bool): Also look at the mirrored images. Defaults to True.
        stride (int): Step of the result in image pixels. Defaults to 4.
        climbing (Climbing, optional): Change every view to show its tags more clearly (AdvCAM), see
            :func:`mmseg_dhr.ops.climb`. Defaults to None.

    Returns:
        list[Tensor]: For each image, float32 on the CPU, (number of its tags, ceil(H / stride),
        ceil(W / stride)), in [0, 1].
    """
    height, width = images.shape[1:3]
    grid = (-(-height // stride), -(-width // stride))
    if not any(tags):  # nothing to ask the network
        return [torch.zeros((0, *grid)) for _ in tags]
    head, count = model.cam_head, len(images)
    device = next(model.parameters()).device
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous().float()
    target = head.tag_targets(tags).to(device)
    views, mirrored = [], []
    for scale in scales:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        scaled = F.interpolate(pixels, size=size, mode='bilinear', antialias=scale < 1)
        inputs = model.rgb_to_inputs(scaled)
        batch = torch.cat([inputs, inputs.flip(-1)]) if flip else inputs
        maps = (model.cam_maps(batch) if climbing is None else
                _climbed_maps(model, batch, target.repeat(len(batch) // count, 1), climbing))
        views += maps.split(count)
        mirrored += [False, True] if flip else [False]
    fused = fuse_cams(views, mirrored, grid, target)
    return [maps[row].cpu() for maps, row in zip(fused, target.bool(), strict=True)]


def _climbed_maps(model: Any, inputs: Tensor, target: Tensor, climbing: Climbing) -> Tensor:
    """Climbed maps (B, K, h, w) of the tags, 0 for other classes; every (image, tag) is a row."""
    images, classes = target.nonzero(as_tuple=True)
    climbed = climb(model.cam_maps, inputs[images], classes, climbing)
    maps = climbed.new_zeros(*target.shape, *climbed.shape[-2:])
    maps[images, classes] = climbed
    return maps


def write_cams(model: Any, dataset: Any, out_dir: str | Path,
               scales: Sequence[float] = (1.0, ), flip: bool = True,
               overwrite: bool = False, batch_size: int = 1,
               climbing: Climbing | None = None) -> Path:
    """Write ``{id}.npz`` for every image of a tagged data set; goes on where it stopped.

    Args:
        model: The trained model, see :func:`multi_scale_cams`.
        dataset (TaggedDataset): The images and their tags.
        out_dir: Output folder.
        scales, flip: See :func:`multi_scale_cams`.
        overwrite (bool): Replace files of other settings. Defaults to False.
        batch_size (int): Images of one size that go through the network together. Defaults to 1.
        climbing (Climbing, optional): See :func:`multi_scale_cams`.

    Returns:
        Path: The folder.
    """
    check_scales(scales)
    settings = dict(kind='cam', scales=list(scales), flip=flip, weights=state_fingerprint(model))
    if climbing is not None:
        settings['climbing'] = climbing._asdict()
    shard = open_shard('CAMs', out_dir, list_photos(dataset), settings, '.npz', overwrite)
    model.eval()
    with in_background() as submit:
        for photos, images in shard.images(batch_size):
            cams = multi_scale_cams(model, images, [p.tags for p in photos], scales, flip,
                                    climbing=climbing)
            for photo, cam in zip(photos, cams, strict=True):
                submit(write_cam, shard.output.path(photo.img_id),
                       np.asarray(photo.tags, np.int64), cam.numpy())
    shard.finish()
    return Path(out_dir)
