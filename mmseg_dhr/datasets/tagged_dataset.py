"""Any mmseg data set, with image-level labels."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmseg.registry import DATASETS
from torch.utils.data import Dataset

from ..utils.checks import missing_part
from .labels import read_image_labels
from .randomness import isolated_seed, permutation

__all__ = ['TaggedDataset']


@DATASETS.register_module()
class TaggedDataset(Dataset):
    """Wraps any mmseg data set and adds the image-level labels of its images.

    Each sample's info gains ``img_id`` (the image's file name without suffix) and ``image_labels``
    (sorted foreground label indices) before the wrapped data set's pipeline runs on it. The data
    set's masks are not read. Everything that can be checked is checked when the data set is built.

    With ``seed`` a sample is a pure function of (seed, position), so that a training can be taken
    up at any position::

        position --//n--> epoch --(seed)--> permutation
                 --%n-->  place in it  ---> image ---(seed, position)---> its augmentation

    Args:
        dataset (dict or BaseDataset): Config of an mmseg data set, or the data set.
        labels (dict): Source of the labels, ``dict(type='json'|'csv'|'folders'|'npy'|'masks',
            path=...)``, see :func:`mmseg_dhr.datasets.labels.read_image_labels`. A relative path is
            below the data set's ``data_root``.
        background_index (int, optional): Label index of the background, None for a data set without
            one. Defaults to 0.
        seed (int, optional): Seed of order and augmentation. Positions may then exceed the number
            of images. None means plain indexing with whatever random state there is. Defaults to
            None.

    Raises:
        FileNotFoundError: If the data root, a folder or list in it, an image or the labels are not
            there.
        ValueError: If the data set is empty, two images have the same id, or the labels break a
            rule.
    """

    def __init__(self, dataset: Mapping[str, Any] | BaseDataset, labels: Mapping[str, Any],
                 background_index: int | None = 0, seed: int | None = None) -> None:
        if seed is not None and seed < 0:
            raise ValueError(f'Expected `seed` to be None or at least 0, but got {seed}.')
        if isinstance(dataset, Mapping):
            dataset = build_wrapped(dataset)
        if not (hasattr(dataset, 'pipeline') and hasattr(dataset, 'get_data_info')):
            raise ValueError('TaggedDataset expects a data set with a pipeline of its own, '
                             f'but got {type(dataset).__name__}, which wraps others.')
        self.dataset = dataset
        self.background_index = background_index
        self.seed = seed
        self._order: tuple[int, np.ndarray] | None = None
        self.full_init()
        paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
        self.image_ids = tuple(Path(path).stem for path in paths)
        check_images(dataset, self.image_ids, paths)
        by_id = read_image_labels(self._labels_source(labels), dataset.metainfo['classes'],
                                  background_index, self.image_ids)
        self._labels = tuple(by_id[image_id] for image_id in self.image_ids)

    @property
    def metainfo(self) -> dict:
        """Meta information of the wrapped data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Load the wrapped data set's list, if it has not been."""
        self.dataset.full_init()

    def image_labels(self, index: int) -> tuple[int, ...]:
        """Tags of the image at ``index``: sorted foreground label indices."""
        return self._labels[index]

    def get_data_info(self, index: int) -> dict:
        """The wrapped data set's info of an image, with ``img_id`` and ``image_labels``."""
        info = self.dataset.get_data_info(index)
        info.update(img_id=self.image_ids[index], image_labels=self._labels[index])
        return info

    def locate(self, position: int) -> int:
        """Index of the image that a position means.

        Raises:
            IndexError: If the position is negative, or too large for a data set without seed.
        """
        length = len(self)
        if position < 0 or (self.seed is None and position >= length):
            raise IndexError(f'Expected a position of at least 0'
                             f'{f" and below {length}" if self.seed is None else ""}, '
                             f'but got {position}.')
        if self.seed is None:
            return position
        epoch, place = divmod(position, length)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, permutation(length, self.seed, epoch)
        return int(self._order[1][place])

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, position: int) -> dict:
        """One sample after the pipeline.

        Raises:
            RuntimeError: If the pipeline fails or gives nothing; names the image.
        """
        index = self.locate(position)
        if self.seed is None:
            return self._prepare(index)
        with isolated_seed(self.seed, position):
            return self._prepare(index)

    def _prepare(self, index: int) -> dict:
        info = self.get_data_info(index)
        where = f'image {info["img_id"]!r} ({info["img_path"]})'
        try:
            sample = self.dataset.pipeline(info)
        except Exception as error:
            raise RuntimeError(f'Could not prepare {where}: {type(error).__name__}: {error}') \
                from error
        if sample is None:
            raise RuntimeError(f'Could not prepare {where}: a transform of the pipeline gave None. '
                               'Is the file a whole image?')
        return sample

    def _labels_source(self, labels: Mapping[str, Any]) -> dict[str, Any]:
        source = dict(labels)
        root = getattr(self.dataset, 'data_root', None)
        if root and source.get('path') is not None:
            source['path'] = os.path.join(root, source['path'])
        return source


def build_wrapped(config: Mapping[str, Any]) -> BaseDataset:
    """Build the data set that is wrapped; a missing folder or list becomes a clear error."""
    try:
        dataset = DATASETS.build(config)
        dataset.full_init()
    except (AssertionError, OSError, ValueError):
        # After the failure, not before: some data sets make their files when they are built.
        _explain(config)
        raise
    return dataset


def _explain(config: Mapping[str, Any]) -> None:
    """Say what is missing where mmseg stops at a bare assertion, if that is what stopped it."""
    problem = missing_part(config)
    if problem:
        raise FileNotFoundError(problem)
    if config.get('backend_args'):
        return  # not on this file system
    root = config.get('data_root') or ''
    if config.get('ann_file'):
        listed = Path(root, config['ann_file'])
        if listed.is_file() and not listed.read_text().strip():
            raise ValueError(f'{listed}: expected a list of images, but it is empty.')
        return
    images = Path(root, (config.get('data_prefix') or {}).get('img_path') or '')
    suffix = config.get('img_suffix', '')
    if not any(images.rglob(f'*{suffix}')):
        raise ValueError(f'{images}: expected images (*{suffix}), but found none.')


def check_images(dataset: BaseDataset, ids: Sequence[str], paths: Sequence[str]) -> None:
    """Refuse an empty data set, an id that occurs twice and an image that is not there."""
    if not paths:
        raise ValueError(f'{type(dataset).__name__}: the data set has no image.')
    if len(set(ids)) < len(ids):
        first: dict[str, str] = {}
        for image_id, path in zip(ids, paths, strict=True):
            if image_id in first:
                raise ValueError(f'Expected every image to have a file name of its own, because it '
                                 f'names the files made from it, but found {first[image_id]} and '
                                 f'{path}.')
            first[image_id] = path
    if getattr(dataset, 'backend_args', None):
        return
    # One listing per folder instead of one look-up per image.
    present = {folder: set(os.listdir(folder or '.')) if os.path.isdir(folder or '.') else set()
               for folder in {os.path.dirname(path) for path in paths}}
    missing = [path for path in paths
               if os.path.basename(path) not in present[os.path.dirname(path)]]
    if missing:
        raise FileNotFoundError(f'{len(missing)} of {len(paths)} listed images do not exist, such '
                                f'as {", ".join(missing[:3])}.')
