"""A folder of another method's seeds: what it is, and whether it fits the data set."""
from __future__ import annotations

import hashlib
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.logging import print_log
from tqdm import tqdm

from ..formats import UnsafePickleError, read_mask
from ..formats.seeds import FLAVOURS, Flavour, matching_flavours, read_content, read_seeds
from ..utils import UserError
from .common import Photo, image_size

__all__ = ['LabelledMaps', 'SeedFolder', 'holds_masks', 'open_seeds']

_MAX_STRIDE = 32
_TOLERANCE = 1e-3
_ORDERS = {True: '0-based, foreground alone', False: 'label ids of the data set'}


class LabelledMaps(NamedTuple):
    """Seeds of one image.

    Attributes:
        labels: Label ids (n,), a part of the image's tags.
        maps: float32 (n, h, w) in [0, 1].
        background: float32 (h, w), the file's own map of the background, or None.
    """
    labels: tuple[int, ...]
    maps: np.ndarray
    background: np.ndarray | None


class Classes(NamedTuple):
    """Label ids of a data set.

    Attributes:
        number: Of classes.
        background: Label id of the background, None if there is none.
    """
    number: int
    background: int | None

    def labels(self, keys: Iterable[int], foreground_first: bool) -> list[int | None]:
        """Label ids of a file's class numbers; None for one that is no class."""
        ids = [i for i in range(self.number) if not foreground_first or i != self.background]
        return [ids[key] if 0 <= key < len(ids) else None for key in keys]

    def foreground(self, keys: Iterable[int], foreground_first: bool) -> set[int | None]:
        """The same as a set, without the background."""
        return {label for label in self.labels(keys, foreground_first)
                if label is None or label != self.background}


class Finding(NamedTuple):
    """What one file holds.

    Attributes:
        img_id: Image.
        tags: Its tags.
        keys: Class numbers that the file names.
        mapped: Those with a map.
        checksum: Of what the file says, whatever its container.
        problem: What is wrong with it, or ''.
        detail: More about that.
    """
    img_id: str
    tags: tuple[int, ...]
    keys: tuple[int, ...] = ()
    mapped: tuple[int, ...] = ()
    checksum: int = 0
    problem: str = ''
    detail: str = ''


class SeedFolder(NamedTuple):
    """Seeds of all images of a data set, checked by :func:`open_seeds`.

    Attributes:
        folder: Where they are.
        name: Name of the flavour.
        suffix: Of the files.
        foreground_first: How the files count classes, see :class:`Flavour`.
        classes: Of the data set.
        has_background: Whether each file has a map of the background.
        digest: SHA-256 of all that they say.
    """
    folder: Path
    name: str
    suffix: str
    foreground_first: bool
    classes: Classes
    has_background: bool
    digest: str

    @property
    def flavour(self) -> Flavour:
        """How the method writes its seeds."""
        return FLAVOURS[self.name]

    @property
    def are_masks(self) -> bool:
        """Whether the files are label masks, not maps."""
        return self.name == 'masks'

    def path(self, photo: Photo) -> Path:
        """The file of an image."""
        return self.folder / f'{photo.img_id}{self.suffix}'

    def read(self, photo: Photo) -> LabelledMaps:
        """The maps of an image's tags, in their order; a tag without a map is left out."""
        seeds = read_seeds(self.path(photo), self.flavour)
        rows = {label: row for row, label in
                enumerate(self.classes.labels(seeds.keys.tolist(), self.foreground_first))}
        maps = seeds.maps.astype(np.float32).clip(0, 1)
        labels = tuple(tag for tag in photo.tags if tag in rows)
        own = maps[rows[self.classes.background]] if self.has_background else None
        return LabelledMaps(labels, maps[[rows[label] for label in labels]], own)


def holds_masks(folder: str | Path, photos: Sequence[Photo], flavour: str = 'auto') -> bool:
    """Whether the files of a folder are label masks, by their suffix; none of them is read.

    Args:
        folder: See :func:`open_seeds`.
        photos (Sequence[Photo]): All images of the data set.
        flavour (str): A name of :data:`~mmseg_dhr.formats.seeds.FLAVOURS`. Defaults to 'auto'.

    Raises:
        UserError: If no image has a file there, or files are of several kinds.
    """
    return (_find_suffix(Path(folder), photos, flavour), ) == FLAVOURS['masks'].suffixes


def open_seeds(folder: str | Path, photos: Sequence[Photo], num_classes: int,
               background_index: int | None = 0, flavour: str = 'auto',
               threads: int = 1) -> SeedFolder:
    """Find out what a folder of seeds holds, read every file of the data set and check it.

    One log line says which flavour it is and why. Seeds must fit the tags: the classes of a file
    are, in most images, exactly the tags (in a mask: tags alone).

    Args:
        folder: Files ``{id}.npy``, ``.pkl``, ``.npz`` or ``.png``.
        photos (Sequence[Photo]): All images of the data set.
        num_classes (int): Its number of classes.
        background_index (int, optional): Label id of the background. Defaults to 0.
        flavour (str): A name of :data:`~mmseg_dhr.formats.seeds.FLAVOURS`. Defaults to 'auto': by
            what the files hold, and between methods that write the same, by the folder's name.
        threads (int): That read. Defaults to 1.

    Raises:
        UserError: If there is no such folder or flavour, files are missing, hold something else or
            do not fit; counts and the first ids are named.
        UnsafePickleError: If a pickle asks for more than arrays, tensors and plain containers.
    """
    folder, classes = Path(folder), Classes(num_classes, background_index)
    if flavour != 'auto' and flavour not in FLAVOURS:
        raise UserError(f'{flavour!r} is no flavour of seeds. Expected auto or one of '
                        f'{", ".join(FLAVOURS)}.')
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder of seeds or masks.')
    suffix = _find_suffix(folder, photos, flavour)
    _check_names(folder, photos, suffix)
    name, why = _find_flavour(folder, photos, suffix, flavour)
    findings = _look_at_all(folder, photos, suffix, name, classes, threads)
    _raise_problems(folder, findings)
    foreground_first = _find_order(folder, findings, name, classes)
    _check_labels(folder, findings, name, classes, foreground_first)
    digest = hashlib.sha256(repr([(f.img_id, f.keys, f.checksum) for f in findings]).encode())
    print_log(f'{folder}: {len(photos)} {suffix} files of flavour {name} ({why}). '
              f'Classes: {_ORDERS[foreground_first]}.', logger='current')
    return SeedFolder(folder, name, suffix, foreground_first, classes,
                      _has_background(findings, classes, foreground_first), digest.hexdigest())


def _find_suffix(folder: Path, photos: Sequence[Photo], flavour: str) -> str:
    names = set(os.listdir(folder))
    known = FLAVOURS.values() if flavour == 'auto' else [FLAVOURS[flavour]]
    suffixes = sorted({suffix for one in known for suffix in one.suffixes})
    counts = {suffix: sum(f'{p.img_id}{suffix}' in names for p in photos) for suffix in suffixes}
    found = [suffix for suffix in suffixes if counts[suffix]]
    if not found:
        raise UserError(
            f'{folder}: expected a file {{image id}} + {", ".join(suffixes)} for each of '
            f'{len(photos)} images ({_some(p.img_id for p in photos)}), but found none of them. '
            f'The folder holds {len(names)} entries: {_some(sorted(names)) or "none"}.')
    if len(found) > 1:
        many = ', '.join(f'{counts[suffix]} {suffix}' for suffix in found)
        raise UserError(f'{folder}: expected seeds of one kind, but found {many} files. Name the '
                        'flavour that is meant, or give a folder with these files alone.')
    return found[0]


def _check_names(folder: Path, photos: Sequence[Photo], suffix: str) -> None:
    files = {path.name.removesuffix(suffix) for path in folder.glob(f'*{suffix}')}
    wanted = {photo.img_id for photo in photos}
    missing, surplus = sorted(wanted - files), sorted(files - wanted)
    if missing:
        raise UserError(f'{folder}: {len(missing)} of {len(wanted)} images have no {suffix} file: '
                        f'{_some(missing)}. ' + (f'{len(surplus)} files are of no image of the '
                                                 f'data set: {_some(surplus)}.' if surplus else ''))
    if surplus:
        print_log(f'{folder}: {len(surplus)} {suffix} files are of no image of the data set and '
                  f'are not read: {_some(surplus)}.', logger='current')


def _find_flavour(folder: Path, photos: Sequence[Photo], suffix: str,
                  flavour: str) -> tuple[str, str]:
    if flavour != 'auto':
        return flavour, 'named by the user'
    whole = [name for name, one in FLAVOURS.items() if one.suffixes == (suffix, )]
    if whole:
        return whole[0], f'{FLAVOURS[whole[0]].layout} in each file'
    for photo in photos:
        path = folder / f'{photo.img_id}{suffix}'
        content = _content(path)
        if isinstance(content, Mapping) and not content:
            continue
        names = matching_flavours(content)
        if not names:
            held = list(content)[:5] if isinstance(content, Mapping) else type(content).__name__
            layouts = sorted({one.layout for one in FLAVOURS.values() if suffix in one.suffixes})
            raise UserError(f'{path}: expected {" or ".join(layouts)}, but found {held}.')
        return _by_name(folder, names, FLAVOURS[names[0]].layout)
    raise UserError(f'{folder}: expected maps of classes, but all {len(photos)} files are empty.')


def _by_name(folder: Path, names: Sequence[str], layout: str) -> tuple[str, str]:
    """Choose between methods that write the same by the names of the folder and its parent."""
    why = f'{layout} in each file'
    words = re.split('[^a-z0-9]+', '/'.join(folder.parts[-2:]).lower())
    for name in names:
        if any(word.startswith(name) for word in words):
            return name, why + (', and by the name of the folder' if len(names) > 1 else '')
    others = ' and '.join(names[1:])
    return names[0], why + (f'; also the layout of {others}: name the flavour if that is meant'
                            if others else '')


def _content(path: Path) -> Any:
    try:
        return read_content(path)
    except UnsafePickleError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


def _look_at_all(folder: Path, photos: Sequence[Photo], suffix: str, name: str, classes: Classes,
                 threads: int) -> list[Finding]:
    look: Callable[[Path, Photo], Finding] = (
        _look_at_mask if name == 'masks' else lambda path, photo: _look_at_maps(path, photo, name))
    rank, world = get_dist_info()
    mine = photos[rank::world]
    with ThreadPoolExecutor(threads) as pool:
        paths = [folder / f'{photo.img_id}{suffix}' for photo in mine]
        found = list(tqdm(pool.map(look, paths, mine), desc='reading seeds', total=len(mine),
                          disable=rank != 0, mininterval=1.0))
    return sorted(finding for part in all_gather_object(found) for finding in part)


def _look_at_maps(path: Path, photo: Photo, name: str) -> Finding:
    finding = Finding(photo.img_id, photo.tags)
    try:
        keys, maps, has_zero = read_seeds(path, FLAVOURS[name])
    except UnsafePickleError:
        raise
    except ValueError as error:
        return finding._replace(problem='cannot be read', detail=str(error))
    size = image_size(photo.path)
    mapped = tuple(keys.tolist())
    finding = finding._replace(keys=(0, *mapped) if has_zero else mapped, mapped=mapped,
                               checksum=_checksum(maps))
    if not np.isfinite(maps).all():
        return finding._replace(problem='hold NaN or infinity')
    if maps.size and not -_TOLERANCE <= maps.min() <= maps.max() <= 1 + _TOLERANCE:
        return finding._replace(problem='hold scores outside [0, 1]',
                                detail=f'{maps.min():.4g} to {maps.max():.4g}')
    if maps.size and not _is_strided(maps.shape[1:], size):
        return finding._replace(
            problem="have maps whose size is not the image's, nor that over a whole stride",
            detail=f'maps of {maps.shape[1]}x{maps.shape[2]} for an image of {size[0]}x{size[1]}')
    return finding


def _look_at_mask(path: Path, photo: Photo) -> Finding:
    finding = Finding(photo.img_id, photo.tags)
    try:
        mask = read_mask(path)
    except ValueError as error:
        return finding._replace(problem='cannot be read', detail=str(error))
    size = image_size(photo.path)
    if mask.shape != size:
        return finding._replace(
            problem="are not of the image's size",
            detail=f'a mask of {mask.shape[0]}x{mask.shape[1]} for an image of {size[0]}x{size[1]}')
    return finding._replace(keys=tuple(label for label in np.unique(mask).tolist() if label != 255),
                            checksum=_checksum(mask))


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(array.tobytes(), zlib.crc32(f'{array.dtype.str} {array.shape}'.encode()))


def _is_strided(grid: Sequence[int], size: Sequence[int]) -> bool:
    """Whether both sides are those of the image over a stride, rounded up or down."""
    return any(all(cells in (side // stride, -(-side // stride))
                   for cells, side in zip(grid, size, strict=True))
               for stride in range(1, _MAX_STRIDE + 1))


def _raise_problems(folder: Path, findings: Sequence[Finding]) -> None:
    by_problem: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.problem:
            by_problem.setdefault(finding.problem, []).append(finding)
    if by_problem:
        raise UserError(f'{folder}: ' + ' '.join(
            f'{len(found)} of {len(findings)} files {problem}: {_some(f.img_id for f in found)}'
            f'{f" ({found[0].detail})" if found[0].detail else ""}.'
            for problem, found in by_problem.items()))


def _fitting(findings: Sequence[Finding], name: str, classes: Classes, foreground_first: bool,
             shift: int = 0) -> int:
    """In how many images the file's classes are the tags."""
    found = 0
    for finding in findings:
        labels = classes.foreground([key + shift for key in finding.keys], foreground_first)
        tags = set(finding.tags)
        found += labels <= tags if name == 'masks' else labels == tags
    return found


def _find_order(folder: Path, findings: Sequence[Finding], name: str, classes: Classes) -> bool:
    """Whether the files count the foreground from 0; see that the tags say so too."""
    usual = FLAVOURS[name].foreground_first
    telling = [finding for finding in findings if finding.tags or finding.keys]
    orders = [usual] if name in ('cams', 'masks') else [usual, not usual]
    counts = {order: _fitting(telling, name, classes, order) for order in orders}
    order = max(orders, key=counts.__getitem__)  # the usual one if both fit
    if 2 * counts[order] < len(telling):
        odd = next(f for f in telling if not _fitting([f], name, classes, order))
        shifts = [(one, shift) for one in orders for shift in (-1, 1)
                  if 2 * _fitting(telling, name, classes, one, shift) >= len(telling)]
        hint = (f'They fit as {_ORDERS[shifts[0][0]]} if {shifts[0][1]:+d} is added to each class: '
                'write them anew.' if shifts else
                'Are they of this data set, and in its order of classes?')
        raise UserError(
            f'{folder}: the classes of the files (read as {_ORDERS[order]}) are the tags in only '
            f'{counts[order]} of {len(telling)} images; in {odd.img_id} the file says '
            f'{list(odd.keys)}, and the tags are {list(odd.tags)}. {hint}')
    if order != usual:
        print_log(f'{folder}: {name} counts classes as {_ORDERS[usual]}, but as '
                  f'{_ORDERS[order]} these fit the tags of {counts[order]} of {len(telling)} '
                  f'images (else of {counts[usual]}): read so.', logger='current',
                  level=logging.WARNING)
    return order


def _check_labels(folder: Path, findings: Sequence[Finding], name: str, classes: Classes,
                  foreground_first: bool) -> None:
    unknown, lacking, surplus = [], [], []
    for finding in findings:
        labels = classes.foreground(finding.keys, foreground_first)
        if None in labels:
            unknown.append(finding)
        elif labels - set(finding.tags):
            surplus.append(finding.img_id)
        if set(finding.tags) - labels:
            lacking.append(finding.img_id)
    if unknown:
        raise UserError(
            f'{folder}: {len(unknown)} of {len(findings)} files have classes that the data set '
            f'does not have ({classes.number} classes, files read as {_ORDERS[foreground_first]}): '
            f'{_some(f.img_id for f in unknown)} (classes {list(unknown[0].keys)}).')
    if lacking and name != 'masks':  # M_base loses classes; that is what DHR is for
        print_log(f'{folder}: {len(lacking)} of {len(findings)} images have a tag without a map: '
                  f'{_some(lacking)}. M_base will lack these classes.', logger='current',
                  level=logging.WARNING)
    if surplus:
        done = 'kept' if name == 'masks' else 'left out'
        print_log(f'{folder}: {len(surplus)} of {len(findings)} files have classes that are no '
                  f'tag of their image: {_some(surplus)}. They are {done}.', logger='current',
                  level=logging.WARNING)


def _has_background(findings: Sequence[Finding], classes: Classes, foreground_first: bool) -> bool:
    return classes.background is not None and all(
        classes.background in classes.labels(finding.mapped, foreground_first)
        for finding in findings)


def _some(names: Iterable[str], count: int = 3) -> str:
    listed = list(names)
    return ', '.join(listed[:count]) + (', ...' if len(listed) > count else '')
