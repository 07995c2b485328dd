"""Reading other people's ``torch.save`` files without running their code.

``torch.load(weights_only=True)`` refuses the checkpoints of PyTorch Lightning, which hold the
trainer's settings as objects of libraries that need not be installed, and those of mmengine, which
hold the history of the losses. Here such objects come out as inert stand-ins: nothing of the file
is run, and nothing of those libraries is imported.
"""
from __future__ import annotations

import collections
import io
import pickle
import types
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import torch

from .atomic import PathLike
from .pickles import RestrictedUnpickler, UnsafePickleError

__all__ = ['TensorUnpickler', 'load_torch_file']

# Top-level packages whose objects describe a training: kept as stand-ins.
_DESCRIPTIVE = ('argparse', 'hydra', 'lightning', 'lightning_fabric', 'lightning_utilities',
                'mmengine', 'omegaconf', 'pathlib', 'pytorch_lightning', 'torchmetrics', 'typing')
_REBUILD = {('torch._utils', name) for name in
            ('_rebuild_tensor', '_rebuild_tensor_v2', '_rebuild_parameter')}
_TYPES = {('collections', 'defaultdict'): collections.defaultdict,
          ('torch', 'Size'): torch.Size, ('torch', 'device'): torch.device}
_TYPES.update({(module, kind.__name__): kind for module in ('builtins', '__builtin__')
               for kind in (bool, dict, float, frozenset, int, list, set, str, tuple)})


class _Inert:
    """Stands for an object of another library: takes whatever a pickle does to it, does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> _Inert:
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Swallow what a pickled list subclass holds."""

    def extend(self, _: Any) -> None:
        """Swallow what a pickled list subclass holds."""

    def add(self, _: Any) -> None:
        """Swallow what a pickled set subclass holds."""


def load_torch_file(path: PathLike) -> Any:
    """Read the tensors and plain containers of a ``torch.save`` file, zip or legacy.

    Objects of the libraries that checkpoints of Lightning and mmengine name (omegaconf, argparse
    and the like) become inert stand-ins.

    Returns:
        What was saved, tensors on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafePickleError: If it asks for anything else; nothing of it was run.
        ValueError: If the file is damaged or of another kind.
    """
    with open(path, 'rb') as file:
        return _load(file, path)


def _load(file: BinaryIO, path: PathLike) -> Any:
    try:
        return torch.load(_source(file), map_location='cpu', weights_only=False,
                          pickle_module=_pickle_module(path))
    except UnsafePickleError:
        raise
    # A damaged file fails in as many ways as there are opcodes and layouts.
    except Exception as error:
        raise ValueError(f'{path}: not a whole torch file '
                         f'({type(error).__name__}: {error}).') from error


def _source(file: BinaryIO) -> BinaryIO:
    """What ``torch.load`` may see: it would hand TorchScript and tar archives to other readers."""
    is_zip = file.read(4) == b'PK\x03\x04'  # as torch tells them apart
    file.seek(0)
    if not is_zip:
        return io.BytesIO(file.read())  # without a file number it is not tried as tar
    with zipfile.ZipFile(file) as archive:
        if any(name.rsplit('/', 1)[-1] == 'constants.pkl' for name in archive.namelist()):
            raise ValueError('it is a TorchScript archive, expected a state dict')
    file.seek(0)
    return file


def _pickle_module(path: PathLike) -> Any:
    """What ``torch.load`` unpickles with, in place of the module ``pickle``."""

    class Unpickler(_TorchUnpickler):

        def __init__(self, file: BinaryIO, encoding: str = 'utf-8') -> None:
            super().__init__(file, path, encoding)

    module: Any = types.ModuleType('restricted_pickle')
    module.Unpickler = Unpickler
    module.UnpicklingError = pickle.UnpicklingError
    module.load = lambda file, **options: Unpickler(file, **options).load()
    return module


class TensorUnpickler(RestrictedUnpickler):
    """Rebuilds tensors too, on the CPU: those that were pickled as any object is.

    Such a pickle holds each tensor's numbers as the bytes of a legacy ``torch.save`` file, and
    names the function of torch that would unpickle these without any restriction. They are read as
    :func:`load_torch_file` reads them instead.
    """
    readable = 'tensors, numpy arrays, numbers, strings and plain containers'

    def find_class(self, module: str, name: str) -> Any:
        """Look up an allowed name."""
        if (module, name) in _REBUILD:
            return _wrapped(getattr(torch._utils, name))
        if (module, name) == ('torch.storage', '_load_from_bytes'):
            return self._storage
        return super().find_class(module, name)

    def _storage(self, content: bytes) -> Any:
        storage = _load(io.BytesIO(content), self._path)
        if not torch.is_storage(storage):
            raise ValueError(f'expected the numbers of a tensor, but found '
                             f'{type(storage).__name__}')
        return storage


class _TorchUnpickler(TensorUnpickler):
    readable = ('tensors, numpy arrays, numbers, strings, plain containers and the settings of '
                'Lightning and mmengine')

    def find_class(self, module: str, name: str) -> Any:
        """Look up an allowed name; torch's own subclass has taken the storage types out."""
        if (module, name) in _TYPES:
            return _TYPES[module, name]
        if module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        # mmengine names methods with `getattr`; the stand-in looks nothing up.
        if module.split('.')[0] in _DESCRIPTIVE or name == 'getattr':
            return type(name.rsplit('.', 1)[-1], (_Inert, ), {'__module__': module})
        return super().find_class(module, name)


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """A fresh function: a pickle may set attributes of what it looks up."""
    return lambda *args: function(*args)
