"""How fast a command was and how much memory it took."""
from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

__all__ = ['Throughput', 'peak_memory']


class Throughput:
    """Counts images against the clock, which starts with the object."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def line(self, title: str, done: int, skipped: int = 0) -> str:
        """What a command says last.

        Args:
            title (str): What was made of the images.
            done (int): Images since the start.
            skipped (int): Images whose file was there already. Defaults to 0.

        Returns:
            str: Such as ``CAMs: 40 images (2 more were there), 0.79 images/s, peak memory
            1.25 GiB``.
        """
        seconds = time.perf_counter() - self._start
        there = f' ({skipped} more were there)' if skipped else ''
        rate = f', {done / max(seconds, 1e-9):.2f} images/s' if done else ''
        return f'{title}: {done} images{there}{rate}, peak memory {peak_memory()}'


def peak_memory() -> str:
    """The most memory that this process ever held, and PyTorch on the GPU if it used one."""
    parts = []
    if resource is not None:
        parts.append(_gib(_peak_bytes()))
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        parts.append(f'{_gib(torch.cuda.max_memory_allocated())} on the GPU')
    return ' and '.join(parts) or 'unknown'


def _peak_bytes() -> int:
    try:  # Linux hands ru_maxrss on from the process that started this one
        status = Path('/proc/self/status').read_text()
        return 1024 * int(status.partition('VmHWM:')[2].split()[0])
    except (OSError, IndexError):
        unit = 1 if sys.platform == 'darwin' else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _gib(count: int) -> str:
    return f'{count / 2**30:.2f} GiB'
