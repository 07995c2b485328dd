from __future__ import annotations

import numpy as np
import pytest
import torch

from mmseg_dhr.evaluation import BaseNovelIoUMetric, base_novel_means, base_novel_table

NAMES = ('background', 'cat', 'dog', 'cow')


def test_means_by_hand():
    iou = np.array([90.0, 40.0, np.nan, 20.0])
    assert base_novel_means(iou, [1, 3]) == dict(all=50.0, base=90.0, novel=30.0)
    assert base_novel_means(iou, [1, 2])['novel'] == 40.0
    assert np.isnan(base_novel_means(iou, [2])['novel'])
    assert '30.00' in base_novel_table(base_novel_means(iou, [1, 3]))


def test_metric_agrees_with_a_count():
    rng = np.random.default_rng(0)
    pairs = [rng.integers(0, 4, (2, 9, 7)) for _ in range(3)]
    metric = BaseNovelIoUMetric(novel=['cat', 'cow'], iou_metrics=['mIoU'])
    metric.dataset_meta = dict(classes=NAMES)
    for pred, truth in pairs:
        metric.process({}, [{key: dict(data=torch.from_numpy(value[None])) for key, value in
                             (('pred_sem_seg', pred), ('gt_sem_seg', truth))}])
    found = metric.evaluate(3)
    pred, truth = np.concatenate(pairs, 1).reshape(2, -1)
    iou = [100 * ((pred == c) & (truth == c)).sum() / ((pred == c) | (truth == c)).sum()
           for c in range(4)]
    assert found['mIoU'] == pytest.approx(np.mean(iou), abs=0.01)
    assert found['base_mIoU'] == pytest.approx((iou[0] + iou[2]) / 2, abs=0.01)
    assert found['novel_mIoU'] == pytest.approx((iou[1] + iou[3]) / 2, abs=0.01)


def test_format_only(tmp_path):
    metric = BaseNovelIoUMetric(novel=['cat'], format_only=True, output_dir=str(tmp_path))
    metric.dataset_meta = dict(classes=NAMES)
    metric.process({}, [dict(pred_sem_seg=dict(data=torch.zeros(1, 2, 2, dtype=torch.uint8)),
                             img_path='x.jpg')])
    metric.evaluate(1)
    assert (tmp_path / 'x.png').is_file()
