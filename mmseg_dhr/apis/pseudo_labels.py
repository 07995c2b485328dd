"""DHR's masks for the images of a data set, outside training."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dist import all_gather_object, get_dist_info, master_only
from mmengine.structures import PixelData
from torch import Tensor

from ..formats import origin_of, state_fingerprint, write_mask
from ..formats.atomic import atomic_path
from ..utils import UserError
from ..utils.checks import spare_inputs
from .common import in_background, list_photos, open_shard
from .uss_features import encoder_settings

__all__ = [
    'SHARES_NAME', 'STAGES', 'collate', 'crop_mask', 'pseudo_label_stages', 'read_beside',
    'read_shares', 'write_pseudo_labels'
]

SHARES_NAME = 'shares.json'
"""Beside the masks: ``{img_id: [share of each class]}``, where the propagation needs shares."""

STAGES = ('base', 'init', 'nearest', 'uss', 'wss', 'final')


@torch.no_grad()
def pseudo_label_stages(model: Any, dataset: Any, indices: list[int],
                        batch_size: int = 1, smooth: Callable | None = None
                        ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Masks of images after each step of DHR.

    Args:
        model (DualEncoderSegmentor): With a propagation; put in eval mode.
        dataset (TaggedDataset): With an un-augmented pipeline that ends in ``PackTaggedInputs`` and
            loads M_base, if there is one.
        indices (list[int]): Which images.
        batch_size (int): Images that go through the network together. Defaults to 1.
        smooth (Callable, optional): See :meth:`DualEncoderSegmentor.propagate`.

    Yields:
        tuple: The index and masks uint8 (H, W) by stage: ``base`` (M_base, if there is one),
        ``init`` (Step 1), ``nearest`` (the control without transport), ``uss`` (Step 2), ``wss``
        (Step 3) and ``final`` (after R_C).
    """
    model.eval()
    for start in range(0, len(indices), batch_size):
        chunk = indices[start:start + batch_size]
        inputs, samples = collate(model, [dataset[i] for i in chunk])
        result = model.propagate(inputs, samples, stages=True, smooth=smooth)
        maps = dict(init=result.init, nearest=result.nearest, uss=result.uss, wss=result.wss,
                    final=result.final)
        for row, (index, sample) in enumerate(zip(chunk, samples, strict=True)):
            masks = {}
            if sample.metainfo.get('base_shares') is not None:
                masks['base'] = crop_mask(sample.gt_sem_seg.data[0], inputs.shape[-2:],
                                          sample.metainfo['img_shape'])
            masks.update({name: crop_mask(m[row], inputs.shape[-2:], sample.metainfo['img_shape'])
                          for name, m in maps.items() if m is not None})
            yield index, masks


def collate(model: Any, packed: list[dict]) -> tuple[Tensor, list]:
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


def crop_mask(mask: Tensor, padded: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """A mask on any grid over the padded image -> uint8 (H, W) of the image itself."""
    full = F.interpolate(mask[None, None].float(), size=tuple(padded), mode='nearest')[0, 0]
    return full[:size[0], :size[1]].byte().cpu().numpy()


class _ShareAverage:
    """Class shares of images, smoothed over rounds: ``m * past + (1 - m) * estimate``.

    An image without a past has the estimate.
    """

    def __init__(self, past: Mapping[str, list[float]], momentum: float) -> None:
        self.past = past
        self.momentum = momentum
        self.shares: dict[str, list[float]] = {}

    def __call__(self, samples: list, estimate: Tensor) -> Tensor:
        smoothed = estimate.clone()
        for row, sample in zip(smoothed, samples, strict=True):
            img_id = sample.metainfo['img_id']
            if img_id in self.past:
                past = torch.as_tensor(self.past[img_id]).to(row)
                row.mul_(1 - self.momentum).add_(self.momentum * past)
            self.shares[img_id] = row.tolist()
        return smoothed


# What transforms read from
_FOLDERS = ('mask_dir', 'boundary_dir', 'cache_dir')


def read_shares(folder: str | Path) -> dict[str, list[float]]:
    """The class shares that :func:`write_pseudo_labels` left in a folder; empty if there are none.

    Raises:
        UserError: If the file is damaged.
    """
    path = Path(folder) / SHARES_NAME
    if not path.is_file():
        return {}
    try:
        return {str(k): [float(x) for x in v] for k, v in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f'{path}: expected {{image id: [share of each class]}}, but could not read '
                        f'it ({error}). Remove it to start from new estimates.') from error


@torch.no_grad()
def _estimate_shares(model: Any, dataset: Any, indices: list[int], batch_size: int,
                     average: _ShareAverage) -> None:
    """The shares of images whose mask is there already: a killed run left no shares behind."""
    model.eval()
    for start in range(0, len(indices), batch_size):
        chunk = indices[start:start + batch_size]
        inputs, samples = collate(model, [dataset[i] for i in chunk])
        average(samples, model.class_shares(inputs, samples))


@master_only
def _write_shares(folder: Path, parts: list[dict[str, list[float]]]) -> None:
    merged = {img_id: shares for part in parts for img_id, shares in part.items()}
    with atomic_path(folder / SHARES_NAME) as temporary:
        temporary.write_text(json.dumps(merged, sort_keys=True) + '\n')


def read_beside(model: Any, dataset: Any) -> dict[str, Any]:
    """For a manifest: what made the files that the pipeline loads, and the USS encoder online."""
    read = {name: origin_of(getattr(transform, name))
            for transform in dataset.dataset.pipeline.transforms
            for name in _FOLDERS if getattr(transform, name, None)}
    if 'cache_dir' not in read and model.uss_encoder is not None:
        read['uss'] = encoder_settings(model.uss_encoder)
    return read


def write_pseudo_labels(model: Any, dataset: Any, out_dir: str | Path, stride: int = 1,
                        batch_size: int = 1, overwrite: bool = False,
                        note: str | int | None = None,
                        past_shares: Mapping[str, list[float]] | None = None,
                        share_momentum: float = 0.0) -> Path:
    """Write M_dh as palette PNG for every image; goes on where it stopped.

    Where the propagation needs class shares, they are kept beside the masks (:data:`SHARES_NAME`).

    Args:
        model (DualEncoderSegmentor): The trained model.
        dataset (TaggedDataset): See :func:`pseudo_label_stages`.
        out_dir: Output folder.
        stride (int): Grid of R_C in pixels; 1 is the finest. Defaults to 1.
        batch_size (int): Images of one size at a time. Defaults to 1.
        overwrite (bool): Replace files of other settings. Defaults to False.
        note (optional): Distinguishes runs that are otherwise alike, such as rounds.
        past_shares (Mapping, optional): Class shares of an earlier round, by image id.
        share_momentum (float): Weight of ``past_shares`` in [0, 1). Defaults to 0.

    Returns:
        Path: The folder.

    Raises:
        ValueError: If ``share_momentum`` is out of range.
    """
    if not 0 <= share_momentum < 1:
        raise ValueError(f'Expected share_momentum in [0, 1), but got {share_momentum}.')
    spare_inputs([out_dir], [getattr(transform, name)
                             for transform in dataset.dataset.pipeline.transforms
                             for name in _FOLDERS if getattr(transform, name, None)])
    settings = dict(kind='dhr', stride=stride, note=note, propagation=model.propagation.summary(),
                    weights=state_fingerprint(model), **read_beside(model, dataset))
    average = None
    if getattr(model.propagation, 'needs_shares', False):
        average = _ShareAverage(past_shares or {}, share_momentum)
        settings.update(share_momentum=share_momentum, past=state_fingerprint(average.past))
    photos = list_photos(dataset)
    shard = open_shard('DHR pseudo-labels', out_dir, photos, settings, '.png', overwrite)
    index_of = {photo.img_id: i for i, photo in enumerate(photos)}
    with model.propagation.at_stride(stride), in_background() as submit:
        for batch in shard.batches(batch_size):
            indices = [index_of[photo.img_id] for photo in batch]
            for index, stages in pseudo_label_stages(model, dataset, indices, batch_size, average):
                submit(write_mask, shard.output.path(photos[index].img_id), stages['final'],
                       dataset.metainfo['palette'])
    if average is not None:
        rank, world = get_dist_info()
        wanted = {index_of[photo.img_id] for photo in shard.photos}
        done = sorted(set(range(rank, len(photos), world)) - wanted)
        _estimate_shares(model, dataset, done, batch_size, average)
        _write_shares(Path(out_dir), all_gather_object(average.shares))
    shard.finish()
    return Path(out_dir)
