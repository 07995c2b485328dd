"""Random streams that are a pure function of their keys.

What is drawn for one sample or one iteration depends on a seed and a position alone, never on what
was drawn before. A training that is killed and resumed therefore draws what it would have drawn.
"""
from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ['isolated_seed', 'permutation', 'seed_everything']

# One number per use, so that equal keys of different uses give unrelated streams.
_ORDER, _SAMPLE, _PROCESS = 1, 2, 3


def seed_everything(*keys: int) -> None:
    """Seed Python, numpy and torch (every device) of this process from non-negative ``keys``."""
    for_python, for_numpy, for_torch = _seeds(_PROCESS, keys)
    random.seed(for_python)
    np.random.seed(for_numpy)
    torch.manual_seed(for_torch)


@contextmanager
def isolated_seed(*keys: int) -> Iterator[None]:
    """Seed Python, numpy and torch (CPU) from non-negative ``keys``, and restore them on exit."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    for_python, for_numpy, for_torch = _seeds(_SAMPLE, keys)
    random.seed(for_python)
    np.random.seed(for_numpy)
    # Not torch.manual_seed: it would reseed the accelerators, whose state is not restored here.
    torch.default_generator.manual_seed(for_torch)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def permutation(length: int, *keys: int) -> np.ndarray:
    """A permutation of ``range(length)``, int64 (length,), from non-negative ``keys``."""
    sequence = np.random.SeedSequence((_ORDER, *keys))
    return np.random.Generator(np.random.PCG64(sequence)).permutation(length)


def _seeds(use: int, keys: tuple[int, ...]) -> list[int]:
    return np.random.SeedSequence((use, *keys)).generate_state(3, np.uint32).tolist()
