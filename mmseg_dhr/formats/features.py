"""Dense features as safetensors."""
from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .atomic import PathLike, atomic_path

__all__ = ['mean_feature', 'read_features', 'write_features']

_KEY = 'features'


def write_features(path: PathLike, features: Tensor) -> None:
    """Write the features of one image in float16, atomically.

    Args:
        path: File to write, ``{id}.safetensors``.
        features (Tensor): (D, h, w), covering exactly the whole image.

    Raises:
        ValueError: If the shape is another one, or a value is not finite or overflows float16.
    """
    if features.ndim != 3:
        raise ValueError(f'{path}: expected features of shape (D, h, w), '
                         f'but got {tuple(features.shape)}.')
    half = features.detach().to('cpu', torch.float16).contiguous()
    if not torch.isfinite(half).all():
        raise ValueError(f'{path}: expected features that are finite in float16, but some are not.')
    with atomic_path(path) as temporary:
        save_file({_KEY: half}, temporary)


def read_features(path: PathLike) -> Tensor:
    """Read what :func:`write_features` wrote: float16 (D, h, w).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'{path}: no such file.')
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f'{path}: not a whole safetensors file ({error}).') from error
    if _KEY not in tensors or tensors[_KEY].ndim != 3:
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise ValueError(f'{path}: expected one tensor `{_KEY}` of shape (D, h, w), '
                         f'but found {found}.')
    return tensors[_KEY]


def mean_feature(folder: PathLike) -> Tensor:
    """Mean of the image means of all features in a folder, float32 (D,).

    Raises:
        FileNotFoundError: If the folder holds no features.
    """
    files = sorted(Path(folder).glob('*.safetensors'))
    if not files:
        raise FileNotFoundError(f'{folder}: expected cached features ({{id}}.safetensors), but '
                                'found none. Make them with tools/extract_uss_features.py.')
    return torch.stack([read_features(file).float().mean((1, 2)) for file in files]).mean(0)
