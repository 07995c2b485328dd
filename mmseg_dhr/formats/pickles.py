"""Reading other people's pickles without running their code.

A pickle may name any callable and have it called. Only the few that rebuild numpy arrays and plain
containers are let through; anything else is an error before it is looked up.
"""
from __future__ import annotations

import collections
import pickle
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np

from .atomic import PathLike

__all__ = ['RestrictedUnpickler', 'UnsafePickleError', 'load_npy', 'load_pickle']

# Both spellings of numpy's modules: numpy 1 writes `numpy.core`, numpy 2 `numpy._core`.
_NUMPY_FUNCTIONS = (('multiarray', '_reconstruct'), ('multiarray', 'scalar'),
                    ('numeric', '_frombuffer'))
_ALLOWED = {(f'numpy.{core}.{module}', name)
            for core in ('core', '_core') for module, name in _NUMPY_FUNCTIONS}
_ALLOWED |= {('numpy', 'ndarray'), ('numpy', 'dtype'), ('_codecs', 'encode')}
_REPLACED = {('collections', 'OrderedDict'): collections.OrderedDict,
             # How old protocols write empty bytes.
             ('__builtin__', 'bytes'): bytes, ('builtins', 'bytes'): bytes}


class UnsafePickleError(ValueError):
    """A pickle asks for something that is not on the allow-list."""


class RestrictedUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and plain containers, refuses everything else.

    Args:
        file (BinaryIO): The pickle.
        path: Where it is, for messages.
        encoding (str): Of the strings of Python 2. Defaults to 'latin1', numpy's.
    """
    readable = 'numpy arrays, numbers, strings and plain containers'

    def __init__(self, file: BinaryIO, path: PathLike, encoding: str = 'latin1') -> None:
        super().__init__(file, encoding=encoding)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """Look up an allowed name; called by the unpickler for every global."""
        if (module, name) in _REPLACED:
            return _REPLACED[module, name]
        if (module, name) not in _ALLOWED:
            raise UnsafePickleError(
                f'{self._path}: the pickle asks for {module}.{name}. Only {self.readable} are '
                'read; nothing of the file was run.')
        if module.startswith(('numpy.core', 'numpy._core')):
            return _numpy_function(module, name)
        return super().find_class(module, name)


def load_pickle(path: PathLike,
                unpickler: type[RestrictedUnpickler] = RestrictedUnpickler) -> Any:
    """Read a pickle of numpy arrays, numbers, strings, lists, tuples and dicts.

    Args:
        path: File to read.
        unpickler (type): What it may hold. Defaults to :class:`RestrictedUnpickler`.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafePickleError: If it holds anything else.
        ValueError: If the file is damaged.
    """
    with open(path, 'rb') as file:
        return _unpickle(file, path, unpickler)


def load_npy(path: PathLike, unpickler: type[RestrictedUnpickler] = RestrictedUnpickler) -> Any:
    """Read an ``.npy`` file, also one of objects, such as a dict that ``np.save`` pickled.

    Args:
        path: File to read.
        unpickler (type): What it may hold. Defaults to :class:`RestrictedUnpickler`.

    Returns:
        The array, or the object itself if the file holds a single one.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafePickleError: If it holds more than :func:`load_pickle` reads.
        ValueError: If the file is damaged or no ``.npy`` file.
    """
    with open(path, 'rb') as file:
        try:
            version = np.lib.format.read_magic(file)
            reader = (np.lib.format.read_array_header_1_0 if version == (1, 0)
                      else np.lib.format.read_array_header_2_0)
            _, _, dtype = reader(file)
            if not dtype.hasobject:
                file.seek(0)
                return np.lib.format.read_array(file, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f'{path}: not a whole .npy file ({error}).') from error
        array = _unpickle(file, path, unpickler)
    if not isinstance(array, np.ndarray):
        raise ValueError(f'{path}: expected a pickled array, but found {type(array).__name__}.')
    return array.item() if array.ndim == 0 else array


def _unpickle(file: BinaryIO, path: PathLike, unpickler: type[RestrictedUnpickler]) -> Any:
    try:
        return unpickler(file, path).load()
    except UnsafePickleError:
        raise
    # A damaged pickle fails in as many ways as there are opcodes; all mean the same to the reader.
    except Exception as error:
        raise ValueError(f'{path}: not a whole pickle '
                         f'({type(error).__name__}: {error}).') from error


def _numpy_function(module: str, name: str) -> Any:
    """The function of that name in the numpy at hand, whichever numpy wrote the file."""
    # numpy 1.26 has a `_core` as well, an empty one.
    core = 'core' if np.__version__.startswith('1.') else '_core'
    return getattr(import_module(f"numpy.{core}.{module.rsplit('.', 1)[1]}"), name)
