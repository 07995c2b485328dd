"""Reading image-level labels.

All readers give ``{image id: tags}``, tags being a sorted tuple of foreground label indices.

Rules:
- The background is no tag: where a file names it, by name or index, it is ignored.
- A name or index that is no class is an error, with the nearest class names.
- A file name stands for its id: ``a.jpg`` for ``a``.
- An image id that occurs twice is an error (in a folder per class: twice in one folder).
- An image without any tag is an error, unless the source says ``allow_empty=True``: then it is an
  image of background alone.
- If the ids of a data set are given, each of them must be there; labels of other images are
  ignored, whatever they say.
"""
from __future__ import annotations

import csv
import difflib
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..formats import load_npy, read_mask

__all__ = ['IMAGE_SUFFIXES', 'READERS', 'ClassIndex', 'id_of_entry', 'mask_labels',
           'read_image_labels']

Tags = tuple[int, ...]
Entries = Iterable[tuple[str, Iterable[Any]]]

MAX_CLASSES = 255  # 255 itself is no label
IMAGE_SUFFIXES = {'.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'}


class ClassIndex:
    """Class names of a data set and what a tag may say.

    Args:
        classes (Sequence[str]): Names in the order of the label indices.
        background_index (int, optional): Label index of the background, None if there is none.
    """

    def __init__(self, classes: Sequence[str], background_index: int | None) -> None:
        self.classes = tuple(classes)
        self.background_index = background_index
        # Some data sets have names with a blank at the end; no label file repeats that.
        self._by_name = {name.strip(): index for index, name in enumerate(self.classes)}
        if background_index is not None and not 0 <= background_index < len(self.classes):
            raise ValueError(f'Expected `background_index` to be None or in [0, '
                             f'{len(self.classes)}), but got {background_index}.')
        if len(self.classes) > MAX_CLASSES:
            raise ValueError(f'Expected at most {MAX_CLASSES} classes, the background included, '
                             'because a mask has 8 bits and 255 is ignored in it, but got '
                             f'{len(self.classes)}: {", ".join(self.classes[:3])}, ... Leave out '
                             'names, or give those that count as `classes`.')

    @property
    def foreground(self) -> Tags:
        """Label indices of all classes but the background."""
        return tuple(i for i in range(len(self.classes)) if i != self.background_index)

    def index(self, tag: Any, where: str) -> int:
        """Label index of a class name or index; ``where`` tells the error what is being read."""
        if isinstance(tag, str):
            name = tag.strip()
            if name in self._by_name:
                return self._by_name[name]
            if name.isdecimal():
                return self.index(int(name), where)
        elif isinstance(tag, int) and not isinstance(tag, bool) and 0 <= tag < len(self.classes):
            return tag
        raise ValueError(f'{where}: {tag!r} is no class of this data set. {self._hint(tag)}')

    def tags(self, values: Iterable[Any], where: str) -> Tags:
        """Sorted foreground label indices of names or indices."""
        indices = {self.index(value, where) for value in values}
        return tuple(sorted(indices - {self.background_index}))

    def _hint(self, tag: Any) -> str:
        lowered = {name.lower(): name for name in self._by_name}
        near = difflib.get_close_matches(str(tag).strip().lower(), lowered, n=3)
        if near:
            return f'Did you mean {", ".join(repr(lowered[name]) for name in near)}?'
        first = ', '.join(repr(name) for name in list(self._by_name)[:5])
        return (f'Expected a class name ({first}, ...) or a label index in '
                f'[0, {len(self.classes)}).')


def read_image_labels(source: Mapping[str, Any], classes: Sequence[str],
                      background_index: int | None,
                      ids: Sequence[str] | None = None) -> dict[str, Tags]:
    """Read image-level labels from any of five kinds of source.

    ======== =======================================================================================
    type     ``path`` is
    ======== =======================================================================================
    json     a file ``{id: [class names or label indices]}``
    csv      a file with the header ``id,labels`` and one row per image, labels joined by
             semicolons: ``2007_000033,aeroplane`` or ``2007_000129,bicycle;person``
    folders  a folder with one folder per class that holds the class's images (or links to them); an
             image may be in several
    npy      PSA's ``cls_labels.npy``: a pickled dict {id: vector of 0 and 1 over the foreground
             classes}. Ids are str, or integers (2007000032 for '2007_000032')
    masks    a folder of label masks ``{id}.png``, for benchmarks. Further keys: ``suffix='.png'``,
             ``min_pixels=1`` that a class must have, ``reduce_zero_label=False`` (0 is ignored and
             all others move down by one). 255 is ignored
    ======== =======================================================================================

    Args:
        source (Mapping): ``dict(type=..., path=..., allow_empty=False)`` and the keys named above.
        classes (Sequence[str]): Class names in the order of the label indices.
        background_index (int, optional): Label index of the background, None if there is none.
        ids (Sequence[str], optional): Image ids of the data set. None reads every image.

    Returns:
        dict[str, tuple[int, ...]]: Tags of each image, of ``ids`` alone if given.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: If a rule at the top of this module is broken, or the file is not what it should
            be.
    """
    options = dict(source)
    kind, path = options.pop('type', None), options.pop('path', None)
    allow_empty = options.pop('allow_empty', False)
    if kind not in READERS or path is None:
        raise ValueError(f'Expected image labels as dict(type=one of {sorted(READERS)}, '
                         f'path=...), but got {dict(source)}.')
    allowed = {'min_pixels', 'reduce_zero_label', 'suffix'} if kind == 'masks' else set()
    if set(options) - allowed:
        raise ValueError(f"Image labels of type '{kind}' have no setting "
                         f'{sorted(set(options) - allowed)}; expected type, path, allow_empty'
                         f'{"".join(f", {name}" for name in sorted(allowed))}.')
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such {"folder" if kind in _FOLDERS else "file"} of '
                                f"image-level labels (type '{kind}'). docs/en/datasets.md has the "
                                'commands that make tags of benchmarks.')
    if path.is_dir() != (kind in _FOLDERS):
        raise ValueError(f"{path}: image labels of type '{kind}' are a "
                         f'{"folder" if kind in _FOLDERS else "file"}.')
    index = ClassIndex(classes, background_index)
    entries = READERS[kind](path, index, ids, **options)
    return _collect(entries, path, index, ids, allow_empty)


def _collect(entries: Entries, path: Path, index: ClassIndex, ids: Sequence[str] | None,
             allow_empty: bool) -> dict[str, Tags]:
    """Apply the rules at the top of this module."""
    wanted = None if ids is None else set(ids)
    seen: set[str] = set()
    labels: dict[str, Tags] = {}
    for name, values in entries:
        image_id = id_of_entry(name, wanted or ())
        if image_id in seen:
            raise ValueError(f'{path}: image id {image_id!r} occurs twice.')
        seen.add(image_id)
        if wanted is None or image_id in wanted:
            labels[image_id] = index.tags(values, f'{path}, image {image_id!r}')
    missing = [i for i in ids or () if i not in labels]
    if ids and missing:
        raise ValueError(f"{path}: {len(missing)} of the data set's {len(ids)} images have no "
                         f"entry, such as {missing[:3]}. An id is the image's file name without "
                         f'suffix; this source has {len(seen)} ids, such as {sorted(seen)[:3]}.')
    empty = [i for i, tags in labels.items() if not tags]
    if empty and not allow_empty:
        raise ValueError(f'{path}: {len(empty)} images have no tag, such as {empty[:3]}. If they '
                         'show background alone, set `allow_empty=True` in the labels config.')
    return labels


def id_of_entry(entry: str, ids: Collection[str]) -> str:
    """The id that an entry means: itself if it is one of ``ids``, else without image suffix."""
    stem, dot, suffix = entry.rpartition('.')
    is_file = dot and f'.{suffix.lower()}' in IMAGE_SUFFIXES and entry not in ids
    return stem if is_file else entry


def _read_text(path: Path) -> str:
    """Text in UTF-8; a spreadsheet may put a mark in front of it."""
    try:
        return path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: expected text in UTF-8, but found another encoding ({error}). '
                         'Save the file as UTF-8; in a spreadsheet: as "CSV UTF-8".') from error


def _read_json(path: Path, index: ClassIndex, ids: Sequence[str] | None) -> Entries:
    text = _read_text(path)
    try:
        # As pairs: a plain dict would silently keep the last of two equal ids.
        content = json.loads(text, object_pairs_hook=_Pairs)
    except ValueError as error:
        raise ValueError(f'{path}: not a JSON file ({error}).') from error
    if not isinstance(content, _Pairs):
        raise ValueError(f'{path}: expected an object {{id: [class names]}}, '
                         f'but found {type(content).__name__}.')
    for image_id, values in content:
        if isinstance(values, _Pairs) or not isinstance(values, list):
            raise ValueError(f'{path}, image {image_id!r}: expected a list of class names, '
                             f'but found {values!r}.')
    return content


class _Pairs(list):
    """A JSON object as (key, value) pairs."""


def _read_csv(path: Path, index: ClassIndex, ids: Sequence[str] | None) -> Entries:
    rows = csv.reader(io.StringIO(_read_text(path)))
    header = [cell.strip() for cell in next(rows, [])]
    if header != ['id', 'labels']:
        raise ValueError(f'{path}: expected the header `id,labels`, but found '
                         f'{",".join(header)!r}.')
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue  # spreadsheets leave such rows below the last
        if len(row) != 2:
            raise ValueError(f'{path}, line {rows.line_num}: expected two columns (labels joined '
                             f'by semicolons), but found {len(row)}: {row}.')
        yield row[0].strip(), [cell for cell in row[1].split(';') if cell.strip()]


def _read_folders(path: Path, index: ClassIndex, ids: Sequence[str] | None) -> Entries:
    labels: dict[str, list[str]] = {}
    for folder in sorted(path.iterdir()):
        if folder.name.startswith('.') or not folder.is_dir():
            continue
        index.index(folder.name, f'{path}, folder')
        stems = Counter(file.stem for file in folder.iterdir()
                        if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != '.')
        for image_id, count in stems.items():
            if count > 1:
                raise ValueError(f'{folder}: image id {image_id!r} occurs twice.')
            labels.setdefault(image_id, []).append(folder.name)
    return labels.items()


def _read_npy(path: Path, index: ClassIndex, ids: Sequence[str] | None) -> Entries:
    content = load_npy(path)
    if not isinstance(content, dict):
        raise ValueError(f'{path}: expected a dict {{id: vector}}, but found '
                         f'{type(content).__name__}.')
    by_number = _ids_by_number(ids or ())
    foreground = np.array(index.foreground)
    for key, vector in content.items():
        image_id = key if isinstance(key, str) else _id_of_number(key, by_number)
        vector = np.asarray(vector)
        if vector.shape != foreground.shape:
            raise ValueError(f'{path}, image {image_id!r}: expected a vector over the '
                             f'{len(foreground)} foreground classes, but found shape '
                             f'{vector.shape}.')
        if not np.isin(vector, (0, 1)).all():
            raise ValueError(f'{path}, image {image_id!r}: expected 0 or 1 per class, '
                             f'but found {vector.tolist()}.')
        yield image_id, foreground[vector == 1].tolist()


def _ids_by_number(ids: Sequence[str]) -> dict[int, str]:
    """Ids by the number that their digits make: '2007_000032' by 2007000032."""
    digits = ((''.join(filter(str.isdecimal, image_id)), image_id) for image_id in ids)
    return {int(number): image_id for number, image_id in digits if number}


def _id_of_number(key: Any, by_number: Mapping[int, str]) -> str:
    number = int(key)
    if number in by_number:
        return by_number[number]
    text = str(number)
    return f'{text[:4]}_{text[4:]}' if len(text) == 10 else text  # VOC: year_serial


def _read_masks(path: Path, index: ClassIndex, ids: Sequence[str] | None, suffix: str = '.png',
                min_pixels: int = 1, reduce_zero_label: bool = False) -> Iterator[tuple[str, Any]]:
    if ids is None:
        ids = sorted(file.name.removesuffix(suffix) for file in path.glob(f'*{suffix}'))
    for image_id in tqdm(ids, desc='Reading tags from masks', disable=len(ids) < 1000):
        file = path / f'{image_id}{suffix}'
        if not file.is_file():
            continue  # reported with all others that are missing
        yield image_id, mask_labels(file, len(index.classes), reduce_zero_label, min_pixels)


def mask_labels(file: Path, num_classes: int, reduce_zero_label: bool = False,
                min_pixels: int = 1) -> list[int]:
    """The label ids that a mask shows, sorted.

    Args:
        file (Path): 8-bit PNG; 255 is ignored.
        num_classes (int): Label ids are below it.
        reduce_zero_label (bool): 0 is ignored and all others move down by one.
        min_pixels (int): That a label must have. Defaults to 1.

    Raises:
        ValueError: If there is a label that is no class, or the file is damaged.
    """
    counts = np.bincount(read_mask(file).ravel(), minlength=256)
    if reduce_zero_label:
        counts = np.concatenate([counts[1:255], [0, counts[0] + counts[255]]])
    unknown = np.flatnonzero(counts[num_classes:255]) + num_classes
    if len(unknown):
        raise ValueError(f'{file}: expected label indices below {num_classes} or 255, '
                         f'but found {unknown[:5].tolist()}.')
    return np.flatnonzero(counts[:num_classes] >= min_pixels).tolist()


_FOLDERS = ('folders', 'masks')
READERS: dict[str, Callable[..., Entries]] = dict(
    json=_read_json, csv=_read_csv, folders=_read_folders, npy=_read_npy, masks=_read_masks)
