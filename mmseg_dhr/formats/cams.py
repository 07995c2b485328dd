"""Class activation maps as npz."""
from __future__ import annotations

import zipfile
from typing import NamedTuple

import numpy as np

from .atomic import PathLike, atomic_path

__all__ = ['CAM', 'read_cam', 'write_cam']


class CAM(NamedTuple):
    """Activation maps of one image.

    Attributes:
        labels: int64 (n,), label indices of the data set.
        maps: float16 (n, h, w) in [0, 1].
    """

    labels: np.ndarray
    maps: np.ndarray


def write_cam(path: PathLike, labels: np.ndarray, maps: np.ndarray) -> None:
    """Write the maps of one image as npz with ``labels`` and ``cam``, atomically.

    Args:
        path: File to write, ``{id}.npz``.
        labels: (n,) label indices.
        maps: (n, h, w) in [0, 1]; stored as float16.

    Raises:
        ValueError: If shapes disagree or a value is outside [0, 1].
    """
    labels, maps = np.asarray(labels, np.int64), np.asarray(maps)
    _check(path, labels, maps)
    with atomic_path(path) as temporary, open(temporary, 'wb') as file:
        np.savez_compressed(file, labels=labels, cam=maps.astype(np.float16))


def read_cam(path: PathLike) -> CAM:
    """Read what :func:`write_cam` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or lacks ``labels`` or ``cam``.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            labels, maps = archive['labels'], archive['cam']
    except KeyError as error:
        raise ValueError(f'{path}: expected the arrays `labels` and `cam`, but {error}.') from error
    except (zipfile.BadZipFile, EOFError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f'{path}: expected a whole npz file with the arrays `labels` and `cam`, '
                         f'but could not read it ({error}).') from error
    _check(path, labels, maps)
    return CAM(labels, maps)


def _check(path: PathLike, labels: np.ndarray, maps: np.ndarray) -> None:
    if maps.ndim != 3 or labels.shape != maps.shape[:1]:
        raise ValueError(f'{path}: expected labels (n,) and maps (n, h, w), '
                         f'but got {labels.shape} and {maps.shape}.')
    if maps.size and not (maps.min() >= 0 and maps.max() <= 1):  # false for NaN too
        raise ValueError(f'{path}: expected maps in [0, 1], but got {maps.min()} to {maps.max()}.')
