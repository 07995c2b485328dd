"""Settings of the whole process. Commands make them; importing the package does not.

Besides what is here, a command sets ``OMP_WAIT_POLICY=passive`` unless the user did, and does so
before it imports torch, for OpenMP reads it once: a thread without work then sleeps. By default it
spins for a while, and takes the core that another process needs, such as a worker of the data
loader or a second training.
"""
from __future__ import annotations

import ctypes
import sys

__all__ = ['keep_freed_memory']

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt(3)
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next tensor instead of returning it.

    glibc maps every block above 32 MiB anew, and the kernel hands out and clears each of its pages.
    For CAMs over four scales that is 30 % of the time on a CPU. The price is memory, for freed
    blocks are not always used again: the peak grew by up to a quarter.

    Returns:
        bool: Whether this C library can be told so (glibc can).
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _LARGEST))
