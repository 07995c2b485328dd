"""M_base from CAMs: a background, boundary correction, argmax."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..formats import Manifest, read_cam, state_fingerprint, write_mask
from ..ops import DenseCRFParams, add_background, dense_crf
from .cams import multi_scale_cams
from .common import Photo, Shard, in_background, list_photos, open_shard, read_rgb

__all__ = ['BaseMaskSettings', 'mask_from_cam', 'write_base_masks']


class BaseMaskSettings(NamedTuple):
    """How a CAM becomes a mask.

    Attributes:
        background_constant: Background score beside the CAMs; None to use ``background_power``.
        background_power: Exponent of ``(1 - max_c)``; None to use the constant.
        crf: Settings of :class:`DenseCRFParams`; None = no CRF.
        background_index: Label id of the background; None if the data set has none.
    """
    background_constant: float | None = 0.3
    background_power: float | None = None
    crf: dict[str, Any] | None = {}
    background_index: int | None = 0


def mask_from_cam(image: np.ndarray, cam: np.ndarray, tags: Sequence[int],
                  settings: BaseMaskSettings) -> np.ndarray:
    """One mask of label ids.

    Args:
        image (np.ndarray): uint8 RGB (H, W, 3).
        cam (np.ndarray): (n, h, w) in [0, 1], the maps of the tags.
        tags (Sequence[int]): Foreground label ids (n,).
        settings (BaseMaskSettings): Background and CRF.

    Returns:
        np.ndarray: uint8 (H, W); all background without tags (255 if there is no background).
    """
    labels = list(tags)
    size = image.shape[:2]
    scores = torch.zeros((1, 0, *size))
    if labels:
        scores = F.interpolate(torch.from_numpy(cam.astype(np.float32))[None], size=size,
                               mode='bilinear', align_corners=False)
    if settings.background_index is not None:
        labels = [settings.background_index, *labels]
        scores = add_background(scores, settings.background_power, settings.background_constant)
    if not labels:
        return np.full(size, 255, np.uint8)
    probs = scores[0].numpy()
    if settings.crf is not None:
        probs = dense_crf(image, probs, DenseCRFParams()._replace(**settings.crf))
    return np.asarray(labels, np.uint8)[probs.argmax(0)]


def write_base_masks(dataset: Any, out_dir: str | Path, settings: BaseMaskSettings,
                     model: Any = None, cam_dir: str | Path | None = None,
                     scales: Sequence[float] = (1.0, ), flip: bool = True, threads: int = 1,
                     overwrite: bool = False, batch_size: int = 1) -> Path:
    """Write M_base as palette PNG for every image; goes on where it stopped.

    Args:
        dataset (TaggedDataset): The images and their tags.
        out_dir: Output folder.
        settings (BaseMaskSettings): Background and CRF.
        model (DualEncoderSegmentor, optional): Makes the CAMs on the fly.
        cam_dir (optional): Folder of CAMs that were written before.
        scales, flip: Of the CAMs, with ``model``.
        threads (int): For the CRF, beside this one. Defaults to 1.
        overwrite (bool): Replace files of other settings. Defaults to False.
        batch_size (int): Images of one size that go through the network together. Defaults to 1.

    Returns:
        Path: The folder.

    Raises:
        ValueError: Unless exactly one of ``model`` and ``cam_dir`` is given.
    """
    if (model is None) == (cam_dir is None):
        raise ValueError('Expected exactly one of `model` and `cam_dir`.')
    origin = (dict(scales=list(scales), flip=flip, weights=state_fingerprint(model))
              if model is not None else dict(cams=_origin_of(Path(str(cam_dir)))))
    shard = open_shard('base masks', out_dir, list_photos(dataset),
                       dict(kind='base', **origin, **settings._asdict()), '.png', overwrite)
    cams = (_cams_of_folder(shard, Path(str(cam_dir))) if model is None else
            _cams_of_model(shard, model, scales, flip, batch_size))
    with in_background(threads) as submit:
        for photo, cam in cams:
            submit(_finish_mask, photo, cam, settings, str(shard.output.path(photo.img_id)),
                   dataset.metainfo['palette'])
    shard.finish()
    return Path(out_dir)


def _origin_of(cam_dir: Path) -> Any:
    """What made the CAMs of a folder; other CAMs may come to lie at the same path."""
    manifest = Manifest.load(cam_dir)
    return str(cam_dir) if manifest is None else manifest.settings


def _cams_of_model(shard: Shard, model: Any, scales: Sequence[float], flip: bool,
                   batch_size: int) -> Iterator[tuple[Photo, np.ndarray]]:
    model.eval()
    for photos, images in shard.images(batch_size):
        cams = multi_scale_cams(model, images, [photo.tags for photo in photos], scales, flip)
        for photo, cam in zip(photos, cams, strict=True):
            yield photo, cam.numpy().astype(np.float16)  # like those of a folder


def _cams_of_folder(shard: Shard, folder: Path) -> Iterator[tuple[Photo, np.ndarray]]:
    for photo, in shard.batches():
        labels, maps = read_cam(folder / f'{photo.img_id}.npz')
        order = [labels.tolist().index(tag) for tag in photo.tags]
        yield photo, maps[order]


def _finish_mask(photo: Photo, cam: np.ndarray, settings: BaseMaskSettings, out: str,
                 palette: Sequence[Sequence[int]]) -> None:
    write_mask(out, mask_from_cam(read_rgb(photo.path), cam, photo.tags, settings), palette)
