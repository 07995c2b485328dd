from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from mmseg_dhr.datasets.randomness import isolated_seed, permutation, seed_everything


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_function_of_the_keys():
    keys = [(0, 0), (0, 1), (1, 0), (1, 1), (2**40, 3)]
    process, isolated = [], []
    for key in keys + keys:
        seed_everything(*key)
        process.append(draw())
        with isolated_seed(*key):
            isolated.append(draw())
    for drawn in (process, isolated):
        assert drawn[:5] == drawn[5:]
        assert len({value for values in drawn[:5] for value in values}) == 15


def test_isolated_even_on_failure():
    seed_everything(1)
    expected = draw()
    seed_everything(1)
    with pytest.raises(RuntimeError), isolated_seed(5):
        draw()
        raise RuntimeError
    assert draw() == expected


def test_uses_are_unrelated():
    seed_everything(1, 2)
    first = draw()
    with isolated_seed(1, 2):
        assert not set(draw()) & set(first)


def test_permutation():
    assert sorted(permutation(50, 3, 4)) == list(range(50))
    assert permutation(50, 3, 4).tolist() == permutation(50, 3, 4).tolist()
    assert permutation(50, 3, 4).tolist() != permutation(50, 4, 3).tolist()
    assert permutation(1, 0).tolist() == [0]
    # Written down: a resumed training must find the same order with another version.
    assert permutation(8, 0, 0).tolist() == [5, 0, 1, 4, 2, 6, 3, 7]
