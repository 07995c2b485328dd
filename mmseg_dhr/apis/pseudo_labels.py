"""DHR's masks for the images of a data set, outside training."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from torch import Tensor

from ..formats import state_fingerprint, write_mask
from .common import list_photos, open_shard

__all__ = ['STAGES', 'pseudo_label_stages', 'write_pseudo_labels']

STAGES = ('base', 'init', 'nearest', 'uss', 'wss', 'final')


@torch.no_grad()
def pseudo_label_stages(model: Any, dataset: Any, indices: list[int],
                        batch_size: int = 1) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Masks of images after each step of DHR.

    Args:
        model (DualEncoderSegmentor): With a propagation; put in eval mode.
        dataset (TaggedDataset): With an un-augmented pipeline that ends in ``PackTaggedInputs`` and
            loads M_base, if there is one.
        indices (list[int]): Which images.
        batch_size (int): Images that go through the network together. Defaults to 1.

    Yields:
        tuple: The index and masks uint8 (H, W) by stage: ``base`` (M_base, if there is one),
        ``init`` (Step 1), ``nearest`` (the control without transport), ``uss`` (Step 2), ``wss``
        (Step 3) and ``final`` (after R_C).
    """
    model.eval()
    for start in range(0, len(indices), batch_size):
        chunk = indices[start:start + batch_size]
        inputs, samples = _collate(model, [dataset[i] for i in chunk])
        result = model.propagate(inputs, samples, stages=True)
        maps = dict(init=result.init, nearest=result.nearest, uss=result.uss, wss=result.wss,
                    final=result.final)
        for row, (index, sample) in enumerate(zip(chunk, samples, strict=True)):
            masks = {}
            if 'base_shares' in sample.metainfo:
                masks['base'] = _crop(sample.gt_sem_seg.data[0], inputs, sample)
            masks.update({name: _crop(m[row], inputs, sample) for name, m in maps.items()})
            yield index, masks


def _collate(model: Any, packed: list[dict]) -> tuple[Tensor, list]:
    """Preprocess images of any size: normalised, padded to the largest at the bottom and right."""
    device = next(model.cam_head.parameters()).device
    rows = [model.data_preprocessor(
        dict(inputs=[p['inputs']], data_samples=[p['data_samples']]), training=False)
        for p in packed]
    images = [row['inputs'].to(device) for row in rows]
    samples = [row['data_samples'][0] for row in rows]
    height = max(image.shape[-2] for image in images)
    width = max(image.shape[-1] for image in images)
    for image, sample in zip(images, samples, strict=True):
        pad = (0, width - image.shape[-1], 0, height - image.shape[-2])
        sample.set_metainfo(dict(img_shape=tuple(image.shape[-2:])))
        if 'gt_sem_seg' in sample:
            padded = F.pad(sample.gt_sem_seg.data, pad, value=255)
            del sample.gt_sem_seg
            sample.set_data(dict(gt_sem_seg=PixelData(data=padded)))
    inputs = torch.cat([
        F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]))
        for image in images
    ])
    return inputs, samples


def _crop(mask: Tensor, inputs: Tensor, sample: Any) -> np.ndarray:
    height, width = sample.metainfo['img_shape']
    full = F.interpolate(mask[None, None].float(), size=inputs.shape[-2:], mode='nearest')[0, 0]
    return full[:height, :width].byte().cpu().numpy()


def write_pseudo_labels(model: Any, dataset: Any, out_dir: str | Path, stride: int = 1,
                        batch_size: int = 1, overwrite: bool = False,
                        note: str | int | None = None) -> Path:
    """Write M_dh as palette PNG for every image; goes on where it stopped.

    Args:
        model (DualEncoderSegmentor): The trained model.
        dataset (TaggedDataset): See :func:`pseudo_label_stages`.
        out_dir: Output folder.
        stride (int): Grid of R_C in pixels; 1 is the finest. Defaults to 1.
        batch_size (int): Images at a time. Defaults to 1.
        overwrite (bool): Replace files of other settings. Defaults to False.
        note (optional): Distinguishes runs that are otherwise alike, such as rounds.

    Returns:
        Path: The folder.
    """
    settings = dict(kind='dhr', stride=stride, note=note, propagation=model.propagation.summary(),
                    weights=state_fingerprint(model))
    photos = list_photos(dataset)
    shard = open_shard(out_dir, photos, settings, '.png', overwrite)
    index_of = {photo.img_id: i for i, photo in enumerate(photos)}
    wanted = [index_of[photo.img_id] for photo in shard.photos]
    with model.propagation.at_stride(stride):
        masks = pseudo_label_stages(model, dataset, wanted, batch_size)
        for photo in shard.progress('DHR pseudo-labels'):
            index, stages = next(masks)
            write_mask(shard.output.path(photo.img_id), stages['final'],
                       dataset.metainfo['palette'])
    shard.finish()
    return Path(out_dir)
