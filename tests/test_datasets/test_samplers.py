from __future__ import annotations

from itertools import islice
from types import SimpleNamespace

import pytest
from mmseg.registry import DATA_SAMPLERS

import mmseg_dhr.datasets.samplers as samplers
from mmseg_dhr.datasets import PositionSampler


class Seeded(list):
    seed = 0


def head(sampler, n=4):
    return list(islice(sampler, n))


def test_counts_from_start():
    sampler = DATA_SAMPLERS.build(
        dict(type='PositionSampler'), default_args=dict(dataset=Seeded(range(3)), seed=7))
    assert head(sampler, 5) == [0, 1, 2, 3, 4]
    assert head(sampler, 2) == [0, 1]  # each iteration begins anew
    sampler.set_start(1000)
    assert head(sampler, 2) == [1000, 1001]
    assert len(sampler) == 3


def test_ranks_share_the_stream(monkeypatch):
    parts = []
    for rank in range(3):
        monkeypatch.setattr(samplers, 'get_dist_info', lambda rank=rank: (rank, 3))
        sampler = PositionSampler(Seeded(range(10)), start=6)
        parts.append(head(sampler))
        assert len(sampler) == 4
    assert parts == [[6, 9, 12, 15], [7, 10, 13, 16], [8, 11, 14, 17]]


@pytest.mark.parametrize('dataset', [[1, 2], SimpleNamespace(seed=None)])
def test_needs_a_seeded_data_set(dataset):
    with pytest.raises(ValueError, match='TaggedDataset with `seed`'):
        PositionSampler(dataset, seed=3)


def test_negative_start():
    with pytest.raises(ValueError, match='at least 0, but got -1'):
        PositionSampler(Seeded(), start=-1)
