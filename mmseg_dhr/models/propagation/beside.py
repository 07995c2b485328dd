"""Work that runs beside the caller's."""
from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

import torch

__all__ = ['run_beside']

T = TypeVar('T')


def run_beside(function: Callable[[], T], device: torch.device) -> Callable[[], T]:
    """Start a function in a thread of its own, and on a GPU on a stream of its own.

    While the host computes or waits in there, the caller goes on, and so does the GPU with what the
    caller asks of it. The function sees all that was asked of the GPU before this call. It runs
    without gradients and without autocast, and must not change what the caller reads meanwhile.

    Args:
        function (Callable): What to run.
        device (torch.device): Where its tensors are.

    Returns:
        Callable: Waits until the function has returned, and gives its result or raises its error,
        however often it is called. What the caller asks of a GPU from then on comes after all that
        the function asked of it; the host does not wait for that.
    """
    side = _side_stream(device) if device.type == 'cuda' else None
    if side is not None:
        side.wait_stream(torch.cuda.current_stream(device))

    def call() -> T:
        with torch.no_grad(), torch.cuda.stream(side) if side is not None else nullcontext():
            return function()

    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)  # ends with the call

    # It keeps `function`, and so the tensors that are read: as soon as the host lets go of them,
    # PyTorch gives their memory to the caller's stream, and the GPU may not have read them yet.
    def result(_read: Callable[[], T] = function) -> T:
        value = future.result()
        if side is not None:
            torch.cuda.current_stream(device).wait_stream(side)
        return value

    return result


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for every device: each stream keeps memory of its own."""
    return torch.cuda.Stream(device)
