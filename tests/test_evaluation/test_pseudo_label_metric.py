from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmseg_dhr.evaluation import MaskScores

CLASSES = ('background', 'cat', 'dog')


def sample(pred: np.ndarray, gt: np.ndarray, tags: tuple[int, ...] | None = None) -> SegDataSample:
    packed = SegDataSample(metainfo=dict(img_path='some/a.jpg'))
    packed.pred_sem_seg = PixelData(data=torch.from_numpy(pred)[None])
    packed.gt_sem_seg = PixelData(data=torch.from_numpy(gt)[None])
    if tags is not None:
        packed.set_metainfo(dict(image_labels=tags))
    return packed


def evaluate(samples: list, size: int | None = None, **kwargs) -> dict:
    evaluator = Evaluator(dict(type='PseudoLabelMetric', **kwargs))
    evaluator.dataset_meta = dict(classes=CLASSES)
    for one in samples:
        evaluator.process(data_samples=[one], data_batch={})
    return evaluator.evaluate(size or len(samples))


def test_metrics_equal_the_scores(mmseg_modules):
    rng = np.random.default_rng(0)
    images = [(rng.integers(0, 3, (6, 7)), rng.integers(0, 3, (6, 7)), (1, 2)[:n])
              for n in (1, 2, 2)]
    reference = MaskScores(3)
    for image in images:
        reference.update(*image)
    expected = reference.compute()
    metrics = evaluate([sample(*image) for image in images])
    assert metrics['pseudo_label/mIoU'] == round(expected.all.miou, 2)
    assert metrics['pseudo_label/aAcc_multi'] == round(expected.multi.accuracy, 2)
    assert metrics['pseudo_label/lost'] == round(expected.all.lost, 2)
    assert set(metrics) == {f'pseudo_label/{name}{group}' for group in ('', '_multi')
                            for name in ('mIoU', 'aAcc', 'vanished', 'lost', 'small_lost')}


def test_repeated_samples_of_a_distributed_test_are_cut_off(mmseg_modules):
    """mmengine keeps the first ``size`` results: there has to be exactly one per image."""
    right, wrong = np.ones((3, 3), int), np.zeros((3, 3), int)
    metrics = evaluate([sample(right, right), sample(wrong, right)], size=1)
    assert metrics['pseudo_label/mIoU'] == 100.0


def test_tags_come_from_the_sample_or_the_truth(mmseg_modules):
    mask = np.array([[0, 1]])
    assert evaluate([sample(mask, mask, (1, 2))])['pseudo_label/vanished'] == 50.0
    assert evaluate([sample(mask, mask)])['pseudo_label/vanished'] == 0.0


def test_no_background(mmseg_modules):
    mask = np.array([[0, 1]])
    metrics = evaluate([sample(mask, mask)], background_index=None, prefix='m')
    assert metrics['m/mIoU_multi'] == 100.0


def test_wrong_label_names_the_image(mmseg_modules):
    with pytest.raises(ValueError, match='some/a.jpg: Expected labels of the prediction'):
        evaluate([sample(np.array([[7]]), np.array([[1]]))])
