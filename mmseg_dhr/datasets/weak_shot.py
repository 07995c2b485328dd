"""Weak-shot data: base classes have masks, novel classes have tags alone (RETAB, Section 3)."""
from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmseg.datasets import PascalVOCDataset
from mmseg.registry import DATASETS

from .labels import ClassIndex
from .tagged_dataset import TaggedDataset

__all__ = ['PARTS', 'WeakShotDataset', 'novel_labels']

PARTS = ('all', 'base', 'novel')
_PASCAL_5I = 'pascal-5i/'
_FOLDS = 4
# Of VOC's augmented training set: the base samples of each fold, as the paper counts them.
_TRAINAUG_IMAGES = 10582
_TRAINAUG_BASE = (7746, 6978, 5040, 8437)


def novel_labels(novel: str | Sequence[str | int], classes: Sequence[str],
                 background_index: int | None = 0) -> tuple[int, ...]:
    """Label indices of the novel classes.

    Args:
        novel (str or Sequence): Class names or label indices, or the fold ``'pascal-5i/0'`` to
            ``'pascal-5i/3'``: five of VOC's twenty classes in their order.
        classes (Sequence[str]): Of the data set.
        background_index (int, optional): The background is always a base class. Defaults to 0.

    Returns:
        tuple[int, ...]: Sorted.

    Raises:
        ValueError: If a class is none of the data set's, the background is among them, no class or
            every object class is novel, or the fold is another.
    """
    where = '`novel`'
    if isinstance(novel, str):
        novel, where = _pascal_5i(novel), f'`novel` = {novel!r}'
    index = ClassIndex(classes, background_index)
    labels = sorted({index.index(name, where) for name in novel})
    if background_index in labels:
        raise ValueError(f'{where}: the background is a base class.')
    if not labels or set(labels) >= set(index.foreground):
        raise ValueError(f'{where}: expected some of the {len(index.foreground)} object classes to '
                         f'be novel and some to be base, but got {len(labels)} novel ones.')
    return tuple(labels)


def _pascal_5i(name: str) -> tuple[str, ...]:
    fold = name.removeprefix(_PASCAL_5I)
    if name == fold or fold not in map(str, range(_FOLDS)):
        raise ValueError(f"Expected `novel` to be a list of classes or one of 'pascal-5i/0' to "
                         f"'pascal-5i/{_FOLDS - 1}', but got {name!r}.")
    objects = PascalVOCDataset.METAINFO['classes'][1:]
    size = len(objects) // _FOLDS
    return tuple(objects[size * int(fold):size * (int(fold) + 1)])


@DATASETS.register_module()
class WeakShotDataset(TaggedDataset):
    """A tagged data set of which some classes are novel.

    An image whose tags name a novel class is a novel sample: its info names no mask, so that
    nothing can read one. All other images are base samples. Each info gains ``is_novel``, for
    :class:`LoadMixedMask`. The size of both parts is logged; with PASCAL-5i on the 10,582 images of
    VOC's trainaug, a warning says where it is not the paper's.

    Args:
        novel (str or Sequence): See :func:`novel_labels`.
        part (str): 'all' images, or only the 'base' or the 'novel' samples. Defaults to 'all'.
        dataset, labels, background_index, seed: See :class:`TaggedDataset`.

    Raises:
        ValueError: As :func:`novel_labels`; if the part is unknown or empty.
    """

    def __init__(self, dataset: Mapping[str, Any] | BaseDataset, labels: Mapping[str, Any],
                 novel: str | Sequence[str | int], part: str = 'all',
                 background_index: int | None = 0, seed: int | None = None) -> None:
        if part not in PARTS:
            raise ValueError(f'Expected part to be one of {PARTS}, but got {part!r}.')
        super().__init__(dataset, labels, background_index, seed)
        self.novel = novel_labels(novel, self.metainfo['classes'], background_index)
        self._log_split(novel)
        if part != 'all':
            self._keep([i for i in range(len(self)) if self.is_novel(i) == (part == 'novel')],
                       part)

    def is_novel(self, index: int) -> bool:
        """Whether the image at ``index`` shows a novel class."""
        return not set(self.novel).isdisjoint(self.image_labels(index))

    def get_data_info(self, index: int) -> dict:
        """The info of :class:`TaggedDataset` and ``is_novel``; without the mask if it is."""
        info = super().get_data_info(index)
        info['is_novel'] = self.is_novel(index)
        if info['is_novel']:
            info.pop('seg_map_path', None)
        return info

    def _log_split(self, novel: str | Sequence[str | int]) -> None:
        base = sum(not self.is_novel(i) for i in range(len(self)))
        print_log(f'Weak-shot split: {base} base and {len(self) - base} novel samples.',
                  logger='current')
        if isinstance(novel, str) and len(self) == _TRAINAUG_IMAGES:
            expected = _TRAINAUG_BASE[int(novel.removeprefix(_PASCAL_5I))]
            if base != expected:
                print_log(f"The paper's split {novel} of VOC's trainaug has {expected} base and "
                          f'{_TRAINAUG_IMAGES - expected} novel samples: its tags name what the '
                          'masks show. Figures will not be comparable with these tags.',
                          logger='current', level=logging.WARNING)

    def _keep(self, indices: list[int], part: str) -> None:
        if not indices:
            raise ValueError(f'None of the {len(self)} images is a {part} sample: the novel '
                             f'classes are {[self.metainfo["classes"][c] for c in self.novel]}.')
        self.dataset.get_subset_(indices)
        self.image_ids = tuple(self.image_ids[i] for i in indices)
        self._labels = tuple(self._labels[i] for i in indices)
