"""The user's own photos: a folder of images and a list of tags, no masks."""
from __future__ import annotations

import filecmp
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from PIL import Image

from ..utils import UserError
from ..utils.checks import check_depth
from ..utils.config import DATA_ROOT_VARIABLE
from .coco_objects import colour_map
from .labels import IMAGE_SUFFIXES as LOWER_SUFFIXES
from .labels import READERS, ClassIndex, id_of_entry

__all__ = ['ImageLabelDataset', 'labels_source', 'read_names', 'use_photos']

BACKGROUND = 'background'
# Of any case here; both are named because an exported config matches them to the letter.
IMAGE_SUFFIXES = tuple(sorted(LOWER_SUFFIXES | {suffix.upper() for suffix in LOWER_SUFFIXES}))
_MAYBE_DEEP = ('.png', '.tif', '.tiff')  # the others have 8 bits a colour
_NAMED = ('csv', 'folders', 'json')  # kinds of labels that hold names


@DATASETS.register_module()
class ImageLabelDataset(BaseSegDataset):
    """Photos in a folder, without masks; for training inside :class:`TaggedDataset`.

    Sub-folders are searched, linked ones too. Suffixes may be mixed, in capitals or not. Every
    photo needs a file name of its own, because that names its masks; copies of one photo in several
    folders (one folder per class) count once.

    Args:
        labels (str | dict, optional): Where the class names come from if ``metainfo`` does not give
            them, see :func:`labels_source`; below ``data_root``. Defaults to None.
        metainfo (dict, optional): ``classes``, the background first, and ``palette``. Without a
            palette the colours are VOC's. Defaults to None.
        img_suffix (str | Sequence[str]): Suffixes of images. Defaults to those that can be read, in
            small letters and in capitals.
        **kwargs: Arguments of ``BaseSegDataset``, ``data_root`` and
            ``data_prefix=dict(img_path=...)`` above all.

    Raises:
        UserError: If there is no such folder, no photo in it, two photos have the same name, or one
            has more than 8 bits a colour.
    """

    def __init__(self, labels: str | Mapping[str, Any] | None = None,
                 metainfo: Mapping[str, Any] | None = None,
                 img_suffix: str | Sequence[str] = IMAGE_SUFFIXES,
                 **kwargs: Any) -> None:
        suffixes = (img_suffix, ) if isinstance(img_suffix, str) else tuple(img_suffix)
        meta = dict(metainfo or {})
        if labels is not None and 'classes' not in meta:
            tags = read_names(kwargs.get('data_root') or '', labels)
            meta['classes'] = (BACKGROUND, *_all_names(tags))
        if 'classes' in meta:
            meta.setdefault('palette', colour_map(len(meta['classes'])))
        super().__init__(metainfo=meta, img_suffix=suffixes, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One info per photo, in the order of the paths."""
        folder = Path(self.data_prefix.get('img_path') or self.data_root or '.')
        if not folder.is_dir():
            raise UserError(f'{folder}: no such folder of photos. Set `data_root` and '
                            '`data_prefix.img_path` of the data set.')
        files = _distinct(sorted(_files_below(folder, self.img_suffix)))
        if not files:
            raise UserError(f'{folder}: expected photos ({", ".join(self.img_suffix)}), but found '
                            'none.')
        _check_depths(files)
        return [dict(img_path=str(file), label_map=self.label_map,
                     reduce_zero_label=self.reduce_zero_label, seg_fields=[]) for file in files]


def _files_below(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Files of these suffixes in a folder, its sub-folders and folders that are links."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link may lead back to a folder that it is in
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] != '.')
        yield from (Path(parent, name) for name in names
                    if name[0] != '.' and Path(name).suffix.lower() in suffixes)


def _distinct(files: Sequence[Path]) -> list[Path]:
    """The files without copies of the same photo."""
    first: dict[str, Path] = {}
    for file in files:
        other = first.setdefault(file.stem, file)
        if other is not file and not filecmp.cmp(other, file, shallow=False):
            raise UserError(f'Expected every photo to have a file name of its own, because it '
                            f'names the masks made from it, but {other} and {file} are different '
                            'photos of one name. Rename one of them.')
    return list(first.values())


def _check_depths(files: Sequence[Path]) -> None:
    """Refuse photos of more than 8 bits. A damaged one is named when its turn comes."""
    for file in files:
        if file.suffix.lower() in _MAYBE_DEEP:
            with suppress(OSError, SyntaxError, Image.DecompressionBombError), \
                    Image.open(file) as image:
                check_depth(image, file)


def labels_source(labels: str | Mapping[str, Any]) -> dict[str, Any]:
    """The ``labels`` of :class:`TaggedDataset` from a path.

    Args:
        labels (str | Mapping): A ``.csv`` or ``.json`` file, or a folder that holds one folder per
            class, '.' for the data root itself. A dict is taken as it is.

    Raises:
        UserError: If the path has another suffix.
    """
    if isinstance(labels, Mapping):
        return dict(labels)
    suffix = Path(labels).suffix.lower()
    kinds = {'.csv': 'csv', '.json': 'json', '': 'folders'}
    if suffix not in kinds:
        raise UserError(f'{labels}: expected labels as a .csv or .json file, or as a folder with '
                        'one folder per class; or give `dict(type=..., path=...)`.')
    return dict(type=kinds[suffix], path=labels)


def read_names(data_root: str, labels: str | Mapping[str, Any]) -> dict[str, set[str]]:
    """The names of each photo's tags but the background.

    Args:
        data_root (str): Folder that the labels are below.
        labels (str | Mapping): See :func:`labels_source`.

    Returns:
        dict[str, set[str]]: By the photo's entry in the labels: its id or file name.

    Raises:
        UserError: If the labels are not there, hold no names, indices instead of names, or a name
            with a comma.
    """
    source = labels_source(labels)
    path = Path(data_root, source['path'])
    if source['type'] not in _NAMED:
        raise UserError(f"Labels of type '{source['type']}' hold no names: give `classes`.")
    if not path.exists():
        raise UserError(f'{path}: no such labels, which the class names are read from. Check '
                        f'`data_root` and `labels`, or give the names as `classes`.')
    names: dict[str, set[str]] = {}
    for entry, tags in READERS[source['type']](path, _AnyName(), None):
        names[entry] = {_name(tag, f'{path}, image {entry!r}') for tag in tags} - {BACKGROUND}
    if not any(names.values()):
        raise UserError(f'{path}: expected tags, but found none.')
    return names


def _name(tag: Any, where: str) -> str:
    """A tag that can be the name of a class."""
    if not isinstance(tag, str) or tag.strip().isdecimal():
        raise UserError(f'{where}: expected names, but found {tag!r}: labels that are indices need '
                        '`classes`.')
    if ',' in tag:
        raise UserError(f'{where}: expected one name, but found {tag!r}. Several names are joined '
                        'by semicolons in a CSV file, and strings of their own in a JSON file. If '
                        'this is one name, give all names as `classes`.')
    return tag.strip()


def _all_names(names: Mapping[str, set[str]]) -> list[str]:
    return sorted(set().union(*names.values()))


class _AnyName(ClassIndex):
    """Stands in for the classes while their names are not known."""

    def __init__(self) -> None:
        super().__init__((), None)

    def index(self, tag: Any, where: str) -> int:
        """Every tag is welcome."""
        return 0


def use_photos(config: Any, data_root: str, images: str = '',
               labels: str | Mapping[str, Any] = 'labels.csv',
               classes: Sequence[str] | None = None) -> None:
    """Make a config that trains on an :class:`ImageLabelDataset` train on other photos.

    The last line of a user's config::

        _base_ = ['configs/dhr/own_photos.py']
        from mmseg_dhr.datasets import use_photos

        use_photos(_base_, data_root='photos', images='images', labels='labels.csv')

    Every ImageLabelDataset gets the folder and the class names, every TaggedDataset the labels, and
    whatever has ``num_classes`` their number.

    Args:
        config (ConfigDict): Changed in place.
        data_root (str): Folder that holds all; ``--data-root`` and MMSEG_DHR_DATA go before it.
        images (str): Folder of photos below it. Defaults to '', the data root itself.
        labels (str | Mapping): See :func:`labels_source`. Defaults to 'labels.csv'.
        classes (Sequence[str], optional): Class names; 'background' is put in front if it is
            missing. Defaults to None, all names in the labels, in alphabetical order.

    Raises:
        UserError: If ``classes`` is needed and cannot be read from the labels.
    """
    root = os.environ.get(DATA_ROOT_VARIABLE) or data_root
    if classes is None:
        tags = read_names(root, labels)
        classes = _all_names(tags)
        _log_counts(tags, classes, Path(root, images))
    names = (BACKGROUND, *(name for name in classes if name != BACKGROUND))
    photos = dict(data_root=root, data_prefix=dict(img_path=images),
                  metainfo=dict(classes=names, palette=colour_map(len(names))))
    _update(config, photos, labels_source(labels), len(names))


def _log_counts(tags: Mapping[str, set[str]], classes: Sequence[str], folder: Path) -> None:
    """Say how many photos each class has, and which entries of the labels have no photo."""
    photos = {file.stem for file in _files_below(folder, IMAGE_SUFFIXES)}
    found = {entry: names for entry, names in tags.items() if id_of_entry(entry, photos) in photos}
    counts = Counter(name for names in found.values() for name in names)
    print_log('Classes, with their photos: '
              + ', '.join(f'{name} {counts[name]}' for name in classes))
    absent = [entry for entry in tags if entry not in found]
    if absent:
        print_log(f'{len(absent)} of {len(tags)} entries of the labels have no photo in {folder} '
                  f'and are not counted, such as {", ".join(absent[:3])}. Photos are files of '
                  f'{", ".join(sorted(LOWER_SUFFIXES))}.')


def _update(node: Any, photos: Mapping[str, Any], labels: Mapping[str, Any],
            num_classes: int) -> None:
    if isinstance(node, list | tuple):
        for part in node:
            _update(part, photos, labels, num_classes)
    if not isinstance(node, dict):
        return
    for part in list(node.values()):
        _update(part, photos, labels, num_classes)
    if node.get('type') == 'ImageLabelDataset':
        node.update(photos)
    if node.get('type') == 'TaggedDataset':
        node['labels'] = dict(labels)
    if isinstance(node.get('num_classes'), int):
        node['num_classes'] = num_classes
