"""MaskScores against mmseg's IoUMetric, a plain loop, and the laws that it has to obey."""
from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.evaluation import IoUMetric

from mmseg_dhr.evaluation import SMALL_AREA, MaskScores

CLASSES = 5


def random_pair(rng: np.random.Generator, size: tuple[int, int] = (13, 17)) -> tuple:
    """Prediction and truth with ignored pixels in both, and about half of the classes."""
    gt = rng.choice([*rng.permutation(CLASSES)[:3], 255], size)
    pred = np.where(rng.random(size) < 0.5, gt, rng.choice([*range(CLASSES), 255], size))
    return pred.astype(np.uint8), gt.astype(np.uint8)


def scores_of(*images: tuple, **kwargs):
    scores = MaskScores(kwargs.pop('num_classes', CLASSES), kwargs.pop('background_index', 0))
    for image in images:
        scores.update(*image)
    return scores.compute()


def plain_tag_shares(images: list[tuple], at_least: int) -> tuple[float, float, float]:
    """Vanished, lost and small-lost shares by a loop over sets of pixels."""
    shares: list[list[bool]] = [[], [], []]
    for pred, gt, tags in images:
        if len(tags) < at_least:
            continue
        for tag in tags:
            true = {tuple(p) for p in np.argwhere(gt == tag)}
            claimed = {tuple(p) for p in np.argwhere(pred == tag)}
            shares[0].append(not claimed)
            if true:
                lost = len(true & claimed) / len(true) < 0.1
                shares[1].append(lost)
                if len(true) / gt.size < 0.02:
                    shares[2].append(lost)
    return tuple(100 * sum(s) / len(s) if s else math.nan for s in shares)


@pytest.mark.parametrize('seed', range(5))
def test_iou_equals_mmseg(seed):
    rng = np.random.default_rng(seed)
    images = [random_pair(rng) for _ in range(4)]
    areas = [IoUMetric.intersect_and_union(torch.from_numpy(p), torch.from_numpy(g), CLASSES, 255)
             for p, g in images]
    total = [sum(column) for column in zip(*areas, strict=True)]
    expected = IoUMetric.total_area_to_metrics(*total)
    ours = scores_of(*images).all
    np.testing.assert_allclose(ours.iou, expected['IoU'] * 100, rtol=1e-6)
    assert ours.miou == pytest.approx(np.nanmean(expected['IoU']) * 100)
    assert ours.accuracy == pytest.approx(expected['aAcc'] * 100)


@pytest.mark.parametrize('seed', range(5))
def test_tag_shares_equal_plain_loop(seed):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(6):
        pred, gt = random_pair(rng, (20, 20))
        gt[:2, :3] = 4  # 6 of 400 pixels: small where the class is nowhere else
        gt[2:][gt[2:] == 4] = 0
        pred[pred == int(rng.integers(1, CLASSES))] = 0
        tags = tuple(sorted({*np.unique(gt)} - {0, 255}))
        images.append((pred, gt, tags[:int(rng.integers(1, 4))]))
    computed = scores_of(*images)
    for group, at_least in ((computed.all, 1), (computed.multi, 2)):
        expected = plain_tag_shares(images, at_least)
        np.testing.assert_allclose((group.vanished, group.lost, group.small_lost), expected)
    assert computed.multi.images == sum(len(tags) > 1 for *_, tags in images)


def test_counts_by_hand():
    gt = np.zeros((10, 100), np.uint8)
    gt[0, :19] = 1  # 1.9 %: small
    gt[1:3] = 2     # 20 %
    gt[3, :20] = 3  # 2 %: no longer small
    pred = np.zeros_like(gt)
    pred[0, :1] = 1  # recall 1/19 < 10 %
    pred[1, :20] = 2  # recall 20/200 = 10 %: not lost
    group = scores_of((pred, gt, (1, 2, 3, 4))).all
    assert (group.tagged, group.measured, group.small) == (4, 3, 1)
    assert group.vanished == 50.0  # 3 and 4; 4 has no true pixel
    assert group.lost == pytest.approx(200 / 3)  # 1 and 3
    assert group.small_lost == 100.0
    assert SMALL_AREA == 0.02


def test_tags_default_to_the_truth_without_background():
    gt = np.array([[0, 1], [2, 255]])
    assert scores_of((gt, gt)).multi.tagged == 2
    assert scores_of((gt, gt), background_index=None).multi.tagged == 3


def test_multi_group_leaves_out_single_class_images():
    single = np.array([[0, 1]])
    double = np.array([[1, 2]])
    computed = scores_of((single, single), (1 - single, single), (double, double))
    assert (computed.all.images, computed.multi.images) == (3, 1)
    assert computed.multi.miou == 100.0
    assert computed.all.miou < 100.0


def test_predicted_ignore_is_wrong_and_ignored_truth_counts_for_nothing():
    gt = np.array([[1, 1, 255, 255]])
    pred = np.array([[1, 255, 3, 255]])
    group = scores_of((pred, gt)).all
    assert group.iou[1] == 50.0
    assert math.isnan(group.iou[3])
    assert group.accuracy == 50.0


def test_class_outside_the_valid_pixels_has_not_vanished():
    """The prediction of a whole image decides what vanished, ignored pixels included."""
    gt = np.array([[1, 255]])
    assert scores_of((np.array([[0, 1]]), gt, (1, ))).all.vanished == 0.0
    assert scores_of((np.array([[0, 0]]), gt, (1, ))).all.vanished == 100.0


@pytest.mark.parametrize('gt', [np.full((3, 5), 255), np.zeros((0, 7), int)])
def test_nothing_to_score_is_nan(gt):
    group = scores_of((np.zeros_like(gt), gt)).all
    assert group.images == 1
    assert np.isnan([group.miou, group.accuracy, group.vanished, group.lost, *group.iou]).all()
    assert scores_of().multi.images == 0


def test_one_class():
    mask = np.zeros((2, 2), np.uint8)
    group = scores_of((mask, mask), num_classes=1, background_index=None).all
    assert (group.miou, group.tagged) == (100.0, 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_merge_of_parts_is_the_whole(seed, cut):
    rng = np.random.default_rng(seed)
    images = [random_pair(rng, (4, 5)) for _ in range(4)]
    parts = [MaskScores(CLASSES), MaskScores(CLASSES)]
    for i, image in enumerate(images):
        parts[i >= cut].update(*image)
    received = pickle.loads(pickle.dumps(parts[1]))  # as processes pass it on
    for merged, whole in zip(parts[0].merge(received).compute(), scores_of(*images), strict=True):
        np.testing.assert_equal(merged._asdict(), whole._asdict())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_perfect_prediction_scores_full(seed):
    _, gt = random_pair(np.random.default_rng(seed), (5, 6))
    group = scores_of((gt, gt)).all
    if (gt != 255).any():
        assert group.miou == group.accuracy == 100.0
    assert group.lost in (0.0, ) or math.isnan(group.lost)


def test_as_dict_is_json_with_null_for_nan():
    gt = np.array([[0, 1]])
    names = 'abcde'
    plain = json.loads(json.dumps(scores_of((gt, gt)).all.as_dict(names), allow_nan=False))
    assert plain['iou'] == {'a': 100.0, 'b': 100.0, 'c': None, 'd': None, 'e': None}
    assert (plain['images'], plain['small_lost']) == (1, None)


@pytest.mark.parametrize(('image', 'message'), [
    ((np.zeros((2, 3)), np.zeros((3, 2))), r'one shape \(H, W\), but got \(2, 3\) and \(3, 2\)'),
    ((np.zeros((2, 2)), np.zeros((2, 2), int)), 'integer labels, but got float64 and int64'),
    ((np.full((2, 2), 5), np.zeros((2, 2), int)), r'labels of the prediction in \[0, 5\)'),
    ((np.zeros((2, 2), int), np.full((2, 2), 254)), r'ground truth in .*found 254 to 254'),
    ((np.zeros((2, 2), int), np.full((2, 2), -1)), r'found -1 to -1'),
    ((np.zeros((2, 2), int), np.zeros((2, 2), int), (0, )), r'foreground classes .*got \[0\]'),
    ((np.zeros((2, 2), int), np.zeros((2, 2), int), (1, 5)), r'got \[5\]'),
])
def test_update_errors(image, message):
    with pytest.raises(ValueError, match=message):
        MaskScores(CLASSES).update(*image)


def test_failed_update_leaves_the_scores_alone():
    scores = MaskScores(CLASSES)
    with pytest.raises(ValueError):
        scores.update(np.full((2, 2), 5), np.zeros((2, 2), int))
    assert scores.compute().all.images == 0


@pytest.mark.parametrize(('kwargs', 'message'), [
    (dict(num_classes=0), 'positive, but got 0'),
    (dict(num_classes=3, background_index=3), r'background_index in \[0, 3\) or None'),
    (dict(num_classes=3, ignore_index=2), r'ignore_index outside \[0, 3\)'),
])
def test_constructor_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MaskScores(**kwargs)


def test_merge_of_other_classes_is_an_error():
    with pytest.raises(ValueError, match='same'):
        MaskScores(3).merge(MaskScores(4))
