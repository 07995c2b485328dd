"""Frozen features of images without labels, each with those of a similar image."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import BaseDataset
from mmseg.registry import DATASETS
from torch import Tensor
from torch.utils.data import Dataset

from ..formats import read_features, read_mask
from ..utils import UserError
from .randomness import isolated_seed, permutation
from .tagged_dataset import build_wrapped, check_images

__all__ = ['NeighbourPairDataset']


@DATASETS.register_module()
class NeighbourPairDataset(Dataset):
    """What the training of a USS head reads: cached features of an image and of one of its nearest.

    It wraps any mmseg data set, of which it needs the list of images alone. A sample is a function
    of (seed, position), as with :class:`TaggedDataset`. ``NeighbourTableHook`` makes the files.

    Each map is resized to one square grid, by nearest cell: features stay what the transformer
    gave, and maps of all shapes make one batch.

    Args:
        dataset (dict or BaseDataset): Config of an mmseg data set, or the data set. Its pipeline is
            not run.
        features_dir (str): Cache of features, ``{id}.safetensors``.
        neighbours_dir (str, optional): Folder of the table of neighbours. None gives no positives.
        num_neighbours (int): The positive is one of so many nearest, each as likely. Defaults to 7.
        grid (int): Side of the maps in cells. Defaults to 16.
        seed (int): Seed of order and choice. Defaults to 0.
        masks (bool): Also read the true masks, with the data set's ``seg_map_suffix`` and
            ``reduce_zero_label``. They are for a linear probe, which measures a head and does not
            train it. Defaults to False.

    Raises:
        FileNotFoundError: If the data root, a folder or list in it, or an image is not there.
        ValueError: If the data set is empty or an argument is out of range.
        UserError: If the data set names no masks, but ``masks`` asks for them.
    """

    def __init__(self, dataset: Mapping[str, Any] | BaseDataset, features_dir: str,
                 neighbours_dir: str | None = None, num_neighbours: int = 7, grid: int = 16,
                 seed: int = 0, masks: bool = False) -> None:
        for name, value, least in (('num_neighbours', num_neighbours, 1), ('grid', grid, 1),
                                   ('seed', seed, 0)):
            if value < least:
                raise ValueError(f'Expected `{name}` to be at least {least}, but got {value}.')
        self.dataset = build_wrapped(dataset) if isinstance(dataset, Mapping) else dataset
        self.features_dir = Path(features_dir)
        self.neighbours_dir = Path(neighbours_dir) if neighbours_dir else None
        self.num_neighbours = num_neighbours
        self.grid = grid
        self.seed = seed
        self.masks = masks
        self.full_init()
        paths = [self.dataset.get_data_info(i)['img_path'] for i in range(len(self.dataset))]
        self.image_ids = tuple(Path(path).stem for path in paths)
        check_images(self.dataset, self.image_ids, paths)
        if masks and 'seg_map_path' not in self.dataset.get_data_info(0):
            raise UserError(f'`masks=True` reads the true masks, but {type(self.dataset).__name__} '
                            'names none. Set `data_prefix.seg_map_path` of the data set, or leave '
                            'out `masks`.')
        self._table: np.ndarray | None = None

    @property
    def metainfo(self) -> dict:
        """Meta information of the wrapped data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Load the wrapped data set's list, if it has not been."""
        self.dataset.full_init()

    def get_data_info(self, index: int) -> dict:
        """The wrapped data set's info of an image, with ``img_id`` and no tags."""
        info = self.dataset.get_data_info(index)
        info.update(img_id=self.image_ids[index], image_labels=())
        return info

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        """One sample.

        Returns:
            dict[str, Tensor]: ``inputs`` and, with a table, ``positives``, float32 (D, grid, grid);
                with ``masks`` also ``labels``, long (grid, grid).

        Raises:
            FileNotFoundError: If the features or the table have not been made.
        """
        epoch, place = divmod(position, len(self))
        index = int(permutation(len(self), self.seed, epoch)[place])
        sample = dict(inputs=self._features(index))
        if self.neighbours_dir is not None:
            with isolated_seed(self.seed, position):
                chosen = np.random.choice(self._neighbours()[index])
            sample['positives'] = self._features(int(chosen))
        if self.masks:
            sample['labels'] = self._labels(index)
        return sample

    @property
    def table_path(self) -> Path:
        """File of the neighbours, int64 (images, num_neighbours).

        Raises:
            ValueError: If the data set was made without them.
        """
        if self.neighbours_dir is None:
            raise ValueError('Expected a NeighbourPairDataset with `neighbours_dir`.')
        return self.neighbours_dir / 'neighbours.npy'

    def _neighbours(self) -> np.ndarray:
        if self._table is None:
            self._table = np.load(self.table_path)
        return self._table

    def _features(self, index: int) -> Tensor:
        path = self.features_dir / f'{self.image_ids[index]}.safetensors'
        return self._resize(read_features(path).float())

    def _labels(self, index: int) -> Tensor:
        info = self.get_data_info(index)
        mask = read_mask(info['seg_map_path'], info.get('reduce_zero_label', False))
        return self._resize(torch.from_numpy(mask)[None].float())[0].long()

    def _resize(self, maps: Tensor) -> Tensor:
        return F.interpolate(maps[None], size=(self.grid, self.grid), mode='nearest-exact')[0]
