"""ClusterMetric against tables computed by hand."""
from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mmseg_dhr.evaluation import ClusterMetric, match_clusters


def measure(predicted, true, classes=3, clusters=3, **options):
    metric = ClusterMetric(clusters, **options)
    metric.dataset_meta = dict(classes=[str(i) for i in range(classes)])
    for p, t in zip(predicted, true, strict=True):
        metric.process(None, [dict(
            img_path='a.jpg', gt_sem_seg=dict(data=torch.tensor(t)[None]),
            **{options.get('key', 'pred_sem_seg'): dict(data=torch.tensor(p)[None])})])
    return metric.evaluate(len(metric.results))


TRUE = [[[0, 0, 0, 1], [1, 1, 2, 255]], [[2, 2, 0, 0], [0, 0, 1, 1]]]
# Clusters 2, 0, 1 stand for classes 0, 1, 2; two pixels are wrong: one 1 in a 0, one 2 in a 1.
FOUND = [[[2, 2, 0, 0], [0, 0, 1, 1]], [[1, 1, 2, 2], [2, 2, 1, 0]]]


def test_by_hand():
    scores = measure(FOUND, TRUE)
    # Class 0: 6 right of 7; class 1: 4 right, 1 missed, 1 too many; class 2: 3 right, 1 too many.
    expected = 100 * np.mean([6 / 7, 4 / 6, 3 / 4])
    assert scores['cluster/mIoU'] == pytest.approx(expected, abs=.01)
    assert scores['cluster/aAcc'] == pytest.approx(100 * 13 / 15, abs=.01)
    assert scores['cluster/used'] == 3


@pytest.mark.parametrize('order', itertools.permutations(range(3)))
def test_names_of_clusters_do_not_matter(order):
    renamed = np.array(order)[np.array(FOUND)].tolist()
    assert measure(renamed, TRUE) == measure(FOUND, TRUE)


def test_a_cluster_without_class_is_wrong_and_no_prediction():
    split = np.array(FOUND)
    split[1, 0, 2:] = 3  # two of the six pixels of class 0 are in a cluster of their own
    scores = measure(split.tolist(), TRUE, clusters=4)
    assert scores['cluster/mIoU'] == pytest.approx(100 * np.mean([4 / 7, 4 / 6, 3 / 4]), abs=.01)
    assert scores['cluster/aAcc'] == pytest.approx(100 * 11 / 15, abs=.01)


def test_fewer_clusters_than_classes():
    scores = measure([[[0, 0, 0, 1]]], [[[0, 0, 1, 2]]], clusters=2)
    assert scores['cluster/mIoU'] == pytest.approx(100 * np.mean([2 / 3, 0, 1]), abs=.01)


def test_an_absent_class_stays_out_of_the_mean():
    assert measure([[[1, 1]]], [[[0, 0]]], classes=5, clusters=2)['cluster/mIoU'] == 100


def test_a_linear_probe_is_taken_as_it_is():
    options = dict(match=False, key='pred_linear', prefix='linear_probe')
    assert measure([[[1, 1, 0, 0]]], [[[0, 0, 1, 1]]], **options)['linear_probe/mIoU'] == 0
    assert measure([[[0, 0, 1, 1]]], [[[0, 0, 1, 1]]], **options)['linear_probe/mIoU'] == 100


def test_matching_beats_every_other_assignment():
    table = np.random.default_rng(0).integers(0, 50, (5, 4))
    matched = match_clusters(table)
    assert sorted(matched) == [-1, 0, 1, 2, 3]
    best = max(sum(table[c, k] for k, c in enumerate(clusters))
               for clusters in itertools.permutations(range(5), 4))
    assert sum(table[c, k] for c, k in enumerate(matched) if k >= 0) == best


@pytest.mark.parametrize(('predicted', 'true', 'message'), [
    ([[[0, 3]]], [[[0, 0]]], r'prediction `pred_sem_seg` in \[0, 3\), but found 0 to 3'),
    ([[[0, 0]]], [[[0, 7]]], r'ground truth in \[0, 3\), but found 0 to 7'),
    ([[[0, 0, 0]]], [[[0, 0]]], r'\(1, 2\), but got \(1, 3\)'),
])
def test_what_does_not_fit(predicted, true, message):
    with pytest.raises(ValueError, match=f'a.jpg: .*{message}'):
        measure(predicted, true)
