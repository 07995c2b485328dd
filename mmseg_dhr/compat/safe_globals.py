"""Lets torch read the checkpoints of mmengine with its safety check on.

Since version 2.6 ``torch.load`` refuses every pickled type that is not known
to be harmless. A checkpoint of mmengine's Runner holds the history of the
logged values, that is ``HistoryBuffer`` objects made of numpy arrays, so
``resume`` and ``init_model`` fail on it. Exactly the types found there are
allowed here; the check itself stays on, for a checkpoint is a file that people
download.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ['allow_mmengine_checkpoints']

_STATISTICS = ('min', 'max', 'current', 'mean')

# The plain numbers of numpy; neither object nor structured types.
_DTYPES = '?bhilqBHILQefd'


def allow_mmengine_checkpoints() -> bool:
    """Adds the types of mmengine's checkpoints to torch's allow-list.

    Returns:
        Whether anything was to be done; False before torch 2.6, where
        ``torch.load`` does not check by default.
    """
    # add_safe_globals is older than 2.6, its (object, name) pairs are not.
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 6):
        return False
    torch.serialization.add_safe_globals(_mmengine_globals())
    return True


def _mmengine_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Lists what a Runner checkpoint holds besides tensors and containers."""
    from mmengine.logging.history_buffer import HistoryBuffer

    reconstruct, scalar = _numpy_constructors()
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        HistoryBuffer,
        (_history_statistic, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
    ]
    # numpy 2 renamed the module, and a file may come from either version.
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        allowed += [
            (reconstruct, f'{module}._reconstruct'),
            (scalar, f'{module}.scalar'),
        ]
    allowed += {type(np.dtype(char)) for char in _DTYPES}
    return allowed


def _numpy_constructors() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Finds what numpy's pickles call, under the name of this version."""
    reconstruct: Any = np.empty(0).__reduce__()[0]
    scalar: Any = np.float64(0).__reduce__()[0]
    return reconstruct, scalar


def _history_statistic(owner: type, name: str) -> Callable[..., Any]:
    """Stands in for ``getattr`` in the pickle of a ``HistoryBuffer``.

    The pickle names the statistics of the buffer as ``getattr(HistoryBuffer,
    'mean')``. The real ``getattr`` would hand a hostile file any attribute of
    any allowed object.

    Raises:
        UnpicklingError: For anything but a statistic of ``HistoryBuffer``.
    """
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError(
            f'A checkpoint may look up {", ".join(_STATISTICS)} of HistoryBuffer and '
            f'nothing else, but this one asks for {name!r} of {owner!r}. Do not use '
            'the file unless you know where it comes from.'
        )
    return getattr(owner, name)
