"""How the kernels are compiled."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ['jit']


def jit(function: Callable[..., Any]) -> Any:
    """Without the interpreter's lock, so that threads run in parallel; compiled once a machine."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to keep it in can be written: once a process
        return njit(nogil=True)(function)
