"""DHR as a transform: the offline way in."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from mmseg_dhr.datasets import DHRPseudoLabel
from mmseg_dhr.formats import CAM
from mmseg_dhr.models import DHRPropagation
from mmseg_dhr.models.propagation import PropagationInputs

PROPAGATION = dict(type='DHRPropagation', num_classes=3)


@pytest.fixture
def results() -> dict:
    """A red square (class 2) on grey, its CAM on a part of it."""
    image = np.full((24, 32, 3), 100, np.uint8)
    image[6:18, 8:20] = (20, 20, 220)  # BGR
    truth = np.zeros((24, 32), np.uint8)
    truth[6:18, 8:20] = 2
    cam = np.zeros((1, 6, 8), np.float16)
    cam[0, 2:4, 3:5] = 1
    features = torch.nn.functional.one_hot(
        torch.from_numpy(truth[::4, ::4].astype(np.int64)), 3).permute(2, 0, 1).float()
    return dict(img=image, img_path='a/1.jpg', image_labels=(2, ), cam=CAM(np.array([2]), cam),
                uss_features=features, seg_fields=[], truth=truth)


def test_recovers_the_object_from_tags_alone(results: dict) -> None:
    out = DHRPseudoLabel(PROPAGATION)(results)
    assert out['gt_seg_map'].dtype == np.uint8 and out['seg_fields'] == ['gt_seg_map']
    assert (out['gt_seg_map'] == results['truth']).mean() > 0.9


def test_is_what_the_propagation_computes(results: dict) -> None:
    base = np.zeros((24, 32), np.uint8)
    results.update(gt_seg_map=base, base_shares=np.array([1, 0, 0], np.float32),
                   seg_fields=['gt_seg_map'])
    cam = torch.zeros(1, 2, 6, 8)
    cam[0, 1] = torch.from_numpy(results['cam'].maps[0].astype(np.float32))
    image = torch.from_numpy(results['img'][..., ::-1].copy()).permute(2, 0, 1)[None].float()
    expected = DHRPropagation(num_classes=3, stride=1)(
        PropagationInputs(image, [(24, 32)], [(2, )], cam, results['uss_features'][None], [],
                          torch.from_numpy(base)[None], [results['base_shares']])).final
    out = DHRPseudoLabel(PROPAGATION)(results)
    assert np.array_equal(out['gt_seg_map'], expected[0].numpy())
    assert out['seg_fields'] == ['gt_seg_map']


@pytest.mark.parametrize(('key', 'maker'), [('cam', 'LoadCAM'), ('uss_features', 'LoadUSSFeatures'),
                                            ('image_labels', 'TaggedDataset')])
def test_missing_key_names_its_maker(results: dict, key: str, maker: str) -> None:
    del results[key]
    with pytest.raises(KeyError, match=maker):
        DHRPseudoLabel(PROPAGATION)(results)
