"""Images per second of the commands that walk over a data set."""
from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config

from ...formats import read_mask
from ...utils import leaf_datasets
from ...utils.config import load_config
from ..base_masks import BaseMaskSettings, write_base_masks
from ..build import build_dataset, build_model
from ..cams import write_cams
from ..common import list_photos, read_rgb
from ..pseudo_labels import write_pseudo_labels
from ..uss_features import write_uss_features
from .timing import Case, Clock, Race, Row, race, row

__all__ = ['limit_images', 'mask_agreement', 'scenes_config', 'tool_rows', 'write_inputs']

# Of make_cams, as the command has them
_SCALES = (0.5, 1.0, 1.5, 2.0)


def scenes_config(path: str | Path, folder: str | Path, images: int) -> Config:
    """The config of the embedded scenes with few images, all in one folder.

    Args:
        path: configs/dhr/scenes_*.py.
        folder: For the scenes and whatever is made of them.
        images (int): Number of scenes.
    """
    options: dict[str, Any] = {}
    for key in ('train_dataloader.dataset', 'pseudo_label_dataset'):
        options.update({f'{key}.dataset.data_root': str(Path(folder) / 'scenes'),
                        f'{key}.dataset.num_train': images, f'{key}.dataset.num_val': 0})
    return load_config(path, str(folder), options=options)


def limit_images(config: Config, images: int) -> None:
    """Let the data sets of a config end after so many images, in place."""
    for key in ('train_dataloader', 'pseudo_label_dataset'):
        found = config.get(key) or {}
        for _, leaf in leaf_datasets(found.get('dataset', {}), key):
            leaf['indices'] = images  # type: ignore[index]


def tool_rows(config: Config, checkpoint: str | Path | None = None, repeats: int = 2,
              timer: Callable[[], float] = time.perf_counter,
              device: torch.device | None = None) -> Iterator[Row]:
    """Lines of the suite: milliseconds for an image, reading and writing included.

    Args:
        config (Config): With ``pseudo_label_dataset``; all its images are used. Its ``work_dir``,
            where everything is written, must not hold M_base or USS features yet.
        checkpoint (optional): Weights; None leaves the initial ones, which take as long.
        repeats (int): Timed runs over all images. Defaults to 2.
        timer (Callable): Seconds, from any start. Defaults to the wall clock.
        device (optional): Of the network. Defaults to the first GPU, or the CPU.
    """
    model, dataset = build_model(config, checkpoint, device), build_dataset(config)
    fresh = _folders(Path(config.work_dir) / 'benchmark')
    clock = Clock(timer, next(model.cam_head.parameters()).device)
    photos = list_photos(dataset)
    pixels = round(statistics.median(read_rgb(photo.path)[..., 0].size for photo in photos))

    def timed(what: str, ours: Callable, reference: Callable | None = None) -> Row:
        case = Case({'ours': ours}, reference, pixels, reference and mask_agreement)
        raced = race([case], repeats, clock)['ours']
        return _per_image(row('tools', what, raced), raced, len(photos))

    yield timed('make_cams', lambda: write_cams(model, dataset, next(fresh), _SCALES))
    if model.uss_encoder is not None:
        yield timed('extract_uss_features',
                    lambda: write_uss_features(model.uss_encoder, dataset, next(fresh)))
    write_inputs(config, model, dataset)
    cams = write_cams(model, dataset, next(fresh))
    settings = _mask_settings(config)

    def masks(backend: str) -> Path:
        # The command takes the best backend that is installed.
        return write_base_masks(dataset, next(fresh), settings._replace(crf=dict(backend=backend)),
                                seeds=cams)

    yield timed('make_base_masks: numba / pydensecrf', partial(masks, 'numba'),
                partial(masks, 'pydensecrf'))
    if model.propagation is not None:
        yield from _pseudo_label_row(model, dataset, fresh, timed)


def _pseudo_label_row(model: Any, dataset: Any, fresh: Iterator[Path],
                      timed: Callable[..., Row]) -> Iterator[Row]:
    refine = model.propagation.refine

    def masks(backend: str | None) -> Path:
        if backend is not None:
            refine.backend = backend
        return write_pseudo_labels(model, dataset, next(fresh), batch_size=4)

    if hasattr(refine, 'backend'):
        yield timed('make_pseudo_labels: numba / pydensecrf', partial(masks, 'numba'),
                    partial(masks, 'pydensecrf'))
    else:
        yield timed('make_pseudo_labels', partial(masks, None))


def write_inputs(config: Config, model: Any, dataset: Any) -> None:
    """USS features and M_base where the configs of this package read them."""
    work = Path(config.work_dir)
    if model.uss_encoder is not None:
        write_uss_features(model.uss_encoder, dataset, work / 'uss_features')
    write_base_masks(dataset, work / 'base_masks', _mask_settings(config)._replace(crf=None), model)


def mask_agreement(ours: Path, reference: Path) -> dict[str, float]:
    """Share of the pixels, in percent, that the masks of two folders label alike."""
    same = [read_mask(path) == read_mask(reference / path.name) for path in ours.glob('*.png')]
    return {'equal %': 100 * float(np.concatenate([one.ravel() for one in same]).mean())}


def _mask_settings(config: Config) -> BaseMaskSettings:
    return BaseMaskSettings(background_index=config.model.cam_head.get('background_index', 0))


def _folders(root: Path) -> Iterator[Path]:
    """Folders that do not exist: in one that does, nothing would be left to do."""
    return (root / str(i) for i in itertools.count())


def _per_image(line: Row, raced: Race, images: int) -> Row:
    milliseconds = line.ours_ms / images
    return line._replace(
        ours_ms=milliseconds,
        reference_ms=None if line.reference_ms is None else line.reference_ms / images,
        figures={'images/s': 1e3 / max(milliseconds, 1e-9), **raced.figures})
