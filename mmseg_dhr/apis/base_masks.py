"""M_base from CAMs or seeds: a background, boundary correction, argmax."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from ..formats import read_mask, state_fingerprint, write_mask
from ..ops import DenseCRFParams, add_background, dense_crf
from ..utils.checks import check_scales, spare_inputs
from .cams import multi_scale_cams
from .common import Photo, Shard, in_background, list_photos, open_shard, read_rgb
from .seed_folder import LabelledMaps, SeedFolder, open_seeds

__all__ = ['BaseMaskSettings', 'mask_from_cam', 'write_base_masks']

_OF_CAMS = dict(background_constant=0.3)


class BaseMaskSettings(NamedTuple):
    """How a CAM becomes a mask.

    Attributes:
        background_constant: Background score beside the CAMs; None to use ``background_power``.
        background_power: Exponent of ``(1 - max_c)``; None to use the constant. Both None: that of
            the method whose seeds are read; 0.3 for CAMs.
        crf: Settings of :class:`DenseCRFParams`, and ``backend``, see
            :func:`mmseg_dhr.ops.dense_crf`; None = no CRF.
        background_index: Label id of the background; None if the data set has none.
    """
    background_constant: float | None = None
    background_power: float | None = None
    crf: dict[str, Any] | None = {}
    background_index: int | None = 0

    def check(self) -> None:
        """Raise a ValueError for a background that would leave nothing, or everything."""
        if self.background_constant is not None and not 0 < self.background_constant < 1:
            raise ValueError('Expected a background constant between 0 and 1, '
                             f'but got {self.background_constant}.')
        if self.background_power is not None and not self.background_power > 0:
            raise ValueError('Expected a positive exponent of the background, '
                             f'but got {self.background_power}.')

    @property
    def has_background(self) -> bool:
        """Whether it says how to score the background."""
        return self.background_constant is not None or self.background_power is not None

    def or_background(self, **background: Any) -> BaseMaskSettings:
        """With this background, unless it has one."""
        return self if self.has_background else self._replace(**background)


def mask_from_cam(image: np.ndarray, cam: np.ndarray, tags: Sequence[int],
                  settings: BaseMaskSettings, background: np.ndarray | None = None) -> np.ndarray:
    """One mask of label ids.

    Args:
        image (np.ndarray): uint8 RGB (H, W, 3).
        cam (np.ndarray): (n, h, w) in [0, 1], the maps of the tags.
        tags (Sequence[int]): Foreground label ids (n,).
        settings (BaseMaskSettings): Background and CRF.
        background (np.ndarray, optional): (h, w) in [0, 1], in place of the settings' background.

    Returns:
        np.ndarray: uint8 (H, W); all background without tags (255 if there is no background).
    """
    labels = list(tags)
    size = image.shape[:2]
    scores = _enlarged(cam, size) if labels else torch.zeros((1, 0, *size))
    if settings.background_index is not None:
        labels = [settings.background_index, *labels]
        if background is not None:
            scores = torch.cat([_enlarged(background[None], size), scores], 1)
        else:
            rule = settings.or_background(**_OF_CAMS)
            scores = add_background(scores, rule.background_power, rule.background_constant)
    if not labels:
        return np.full(size, 255, np.uint8)
    probs = scores[0].numpy()
    if settings.crf is not None:
        params = dict(settings.crf)
        backend = params.pop('backend', 'auto')
        probs = dense_crf(image, probs, DenseCRFParams()._replace(**params), backend)
    return np.asarray(labels, np.uint8)[probs.argmax(0)]


def _enlarged(maps: np.ndarray, size: Sequence[int]) -> Tensor:
    return F.interpolate(torch.from_numpy(maps.astype(np.float32))[None], size=tuple(size),
                         mode='bilinear', align_corners=False)


def write_base_masks(dataset: Any, out_dir: str | Path, settings: BaseMaskSettings,
                     model: Any = None, seeds: str | Path | None = None, flavour: str = 'auto',
                     scales: Sequence[float] = (1.0, ), flip: bool = True, threads: int = 1,
                     overwrite: bool = False, batch_size: int = 1) -> Path:
    """Write M_base as palette PNG for every image; goes on where it stopped.

    Args:
        dataset (TaggedDataset): The images and their tags.
        out_dir: Output folder.
        settings (BaseMaskSettings): Background and CRF. Not for masks that are brought.
        model (optional): Makes the CAMs on the fly, see
            :func:`mmseg_dhr.apis.cams.multi_scale_cams`.
        seeds (optional): Folder of CAMs that were written before, or of the seeds or masks of
            another method, see :func:`mmseg_dhr.apis.seed_folder.open_seeds`.
        flavour (str): Of the seeds. Defaults to 'auto', by what the files hold.
        scales, flip: Of the CAMs, with ``model``.
        threads (int): For the CRF, beside this one. Defaults to 1.
        overwrite (bool): Replace files of other settings. Defaults to False.
        batch_size (int): Images of one size that go through the network together. Defaults to 1.

    Returns:
        Path: The folder.

    Raises:
        ValueError: Unless exactly one of ``model`` and ``seeds`` is given; if the background or a
            scale is out of range.
        UserError: If the seeds do not fit the data set, or lie in ``out_dir``.
    """
    if (model is None) == (seeds is None):
        raise ValueError('Expected exactly one of `model` and `seeds`.')
    settings.check()
    check_scales(scales)
    if seeds is not None:
        spare_inputs([out_dir], [seeds])
    photos, opened = list_photos(dataset), None
    origin: dict[str, Any] = dict(scales=list(scales), flip=flip)
    if seeds is None:
        origin['weights'] = state_fingerprint(model)
        settings = settings.or_background(**_OF_CAMS)
    else:
        opened = open_seeds(seeds, photos, len(dataset.metainfo['classes']),
                            settings.background_index, flavour, threads)
        origin = dict(flavour=opened.name, seeds=opened.digest)
        settings = _settings_for(opened, settings)
    shard = open_shard('base masks', out_dir, photos,
                       dict(kind='base', **origin, **settings._asdict()), '.png', overwrite)
    maps = (_maps_of_model(shard, model, scales, flip, batch_size) if opened is None else
            _maps_of_folder(shard, opened))
    with in_background(threads) as submit:
        for photo, one in maps:
            submit(_finish_mask, photo, one, settings, shard.output.path(photo.img_id),
                   dataset.metainfo['palette'])
    shard.finish()
    return Path(out_dir)


def _settings_for(seeds: SeedFolder, settings: BaseMaskSettings) -> BaseMaskSettings:
    """The settings with the seeds' own background where none is set; says which it is."""
    if seeds.are_masks:  # nothing is done to them
        return BaseMaskSettings(crf=None, background_index=settings.background_index)
    if seeds.has_background and not settings.has_background:
        print_log(f"{seeds.folder}: the background is the files' own.", logger='current')
        return settings
    chosen = settings.or_background(**seeds.flavour.background)
    rule = (f'(1 - max)^{chosen.background_power:g}' if chosen.background_constant is None
            else f'{chosen.background_constant:g}')
    whose = 'as set' if settings.has_background else f'that of {seeds.name}'
    print_log(f'{seeds.folder}: the background score is {rule}, {whose}.', logger='current')
    return chosen


def _maps_of_model(shard: Shard, model: Any, scales: Sequence[float], flip: bool,
                   batch_size: int) -> Iterator[tuple[Photo, LabelledMaps]]:
    model.eval()
    for photos, images in shard.images(batch_size):
        cams = multi_scale_cams(model, images, [photo.tags for photo in photos], scales, flip)
        for photo, cam in zip(photos, cams, strict=True):
            # Rounded like those of a folder.
            yield photo, LabelledMaps(photo.tags, cam.numpy().astype(np.float16), None)


def _maps_of_folder(shard: Shard,
                    seeds: SeedFolder) -> Iterator[tuple[Photo, LabelledMaps | Path]]:
    for photo, in shard.batches():
        yield photo, seeds.path(photo) if seeds.are_masks else seeds.read(photo)


def _finish_mask(photo: Photo, maps: LabelledMaps | Path, settings: BaseMaskSettings, out: Path,
                 palette: Sequence[Sequence[int]]) -> None:
    if isinstance(maps, Path):
        write_mask(out, read_mask(maps), palette)
        return
    own = None if settings.has_background else maps.background
    write_mask(out, mask_from_cam(read_rgb(photo.path), maps.maps, maps.labels, settings, own),
               palette)
