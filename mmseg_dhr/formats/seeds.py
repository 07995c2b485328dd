"""Seeds (class maps of an image) as other methods write them.

A seed file holds one map for each class of its image. Methods differ in the container, in how they
count classes and in what they compare the maps with to find the background; see :data:`FLAVOURS`.
"""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .atomic import PathLike
from .cams import read_cam
from .pickles import load_npy, load_pickle
from .torch_files import TensorUnpickler

__all__ = [
    'FLAVOURS', 'Flavour', 'Seeds', 'matching_flavours', 'read_content', 'read_seeds', 'seeds_of'
]

_PICKLES = ('.npy', '.pkl')


class Flavour(NamedTuple):
    """How a method writes its seeds.

    Attributes:
        layout: What the file holds, in words.
        fields: Where the maps are: the first of these keys that is there; empty for a dict by
            class.
        foreground_first: Whether classes are counted from 0 over the foreground alone; else they
            are label ids.
        background: The method's own background score, a setting of
            :class:`mmseg_dhr.apis.BaseMaskSettings`.
        suffixes: Of the files.
    """
    layout: str
    fields: tuple[str, ...]
    foreground_first: bool
    background: Mapping[str, float]
    suffixes: tuple[str, ...] = _PICKLES


_BY_CLASS = 'a dict {class: map}'
_IRNET = ('high_res', 'cam')
# The first that fits a file is taken: `cam` alone says least. Of methods with one layout, the first
# is the one that the others took it from.
FLAVOURS = dict(
    rsepm=Flavour('`keys` and `seed`', ('seed', ), False, dict(background_power=2.0)),
    puzzlecam=Flavour('`keys` and `hr_cam`', ('hr_cam', ), False, dict(background_constant=0.3)),
    puzzlecam_rw=Flavour('`keys` and `rw`', ('rw', ), False, dict(background_constant=0.25)),
    irnet=Flavour('`keys`, `cam` and `high_res`', _IRNET, True, dict(background_constant=0.3)),
    advcam=Flavour('`keys`, `cam` and `high_res`', _IRNET, True, dict(background_constant=0.35)),
    psa=Flavour(_BY_CLASS, (), True, dict(background_power=16.0)),
    seam=Flavour(_BY_CLASS, (), True, dict(background_power=6.0)),
    mctformer=Flavour(_BY_CLASS, (), True, dict(background_constant=0.39)),
    cams=Flavour('`labels` and `cam`', (), False, dict(background_constant=0.3), ('.npz', )),
    masks=Flavour('a label mask', (), False, {}, ('.png', )),
)


class Seeds(NamedTuple):
    """Maps of one image, as the file has them.

    Attributes:
        keys: int64 (n,), the file's own class numbers.
        maps: (n, h, w).
        has_zero: Whether the file counts label ids for certain: it names class 0, the background,
            without a map for it.
    """
    keys: np.ndarray
    maps: np.ndarray
    has_zero: bool = False


def matching_flavours(content: Any) -> list[str]:
    """Names of the flavours whose layout an unpickled object has, all of one layout."""
    if not isinstance(content, Mapping):
        return []
    for first in FLAVOURS.values():
        if first.suffixes == _PICKLES and _fits(content, first):
            return [other for other, flavour in FLAVOURS.items()
                    if flavour.suffixes == _PICKLES and flavour.fields == first.fields]
    return []


def read_content(path: PathLike) -> Any:
    """Unpickle a ``.npy`` or ``.pkl`` file of numpy arrays, tensors and plain containers.

    Raises:
        UnsafePickleError: If it asks for anything else; nothing of it was run.
        ValueError: If it is damaged.
    """
    load = load_npy if Path(path).suffix == '.npy' else load_pickle
    return load(path, TensorUnpickler)


def read_seeds(path: PathLike, flavour: Flavour) -> Seeds:
    """Read the maps of one image.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafePickleError: If a pickle asks for more than arrays, tensors and plain containers.
        ValueError: If the file is damaged, is of another layout, or a map is none.
    """
    if Path(path).suffix == '.npz':
        return Seeds(*read_cam(path))
    return seeds_of(read_content(path), flavour, path)


def seeds_of(content: Any, flavour: Flavour, path: PathLike) -> Seeds:
    """The maps of an unpickled object; an empty dict has none.

    Raises:
        ValueError: If it is of another layout, or a map is none.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f'{path}: expected {flavour.layout}, but found {type(content).__name__}.')
    if not content:
        return Seeds(np.zeros(0, np.int64), np.zeros((0, 1, 1), np.float32))
    if not _fits(content, flavour):
        raise ValueError(f'{path}: expected {flavour.layout}, but found a dict with the keys '
                         f'{list(content)[:5]}.')
    if flavour.fields:
        field = next(name for name in flavour.fields if name in content)
        keys, maps = _array(content['keys']), _array(content[field])
    else:
        shapes = {np.shape(one) for one in content.values()}
        if len(shapes) > 1:
            raise ValueError(f'{path}: expected maps of one size, but found {sorted(shapes)}.')
        keys = np.array([int(key) for key in content])
        maps = np.stack([_array(one) for one in content.values()])
    return _checked(keys, maps, path)


def _checked(keys: np.ndarray, maps: np.ndarray, path: PathLike) -> Seeds:
    has_zero = len(keys) == len(maps) + 1 and keys.ndim == 1 and keys[0] == 0
    if has_zero:
        keys = keys[1:]
    if maps.ndim != 3 or keys.shape != maps.shape[:1] or maps.dtype.kind not in 'fiu' \
            or keys.dtype.kind not in 'iu' and keys.size:
        raise ValueError(f'{path}: expected class numbers (n,) and maps (n, h, w), but found '
                         f'{keys.dtype} {keys.shape} and {maps.dtype} {maps.shape}.')
    if len(set(keys.tolist())) < len(keys):
        raise ValueError(f'{path}: expected each class once, but found {keys.tolist()}.')
    return Seeds(keys.astype(np.int64), maps, has_zero)


def _fits(content: Mapping, flavour: Flavour) -> bool:
    if flavour.fields:
        return 'keys' in content and any(name in content for name in flavour.fields)
    return all(isinstance(key, int | np.integer) for key in content)


def _array(value: Any) -> np.ndarray:
    """A tensor's numbers, bfloat16 too, which numpy does not have."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)
