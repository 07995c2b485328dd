from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_dhr.ops import boundary_loss, boundary_target
from mmseg_dhr.utils import UserError

CONFIG = dict(
    type='BoundaryNetwork',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.0] * 3, std=[128.0] * 3,
                           bgr_to_rgb=True, pad_val=0, seg_pad_val=255, size=(32, 32)),
    backbone=dict(type='ResNetV1c', depth=18, base_channels=8, stem_channels=8),
    affinity_head=dict(type='BoundaryAffinityHead', in_channels=(8, 16, 32, 64), channels=8))


# Configs name components of mmseg.
pytestmark = pytest.mark.usefixtures('mmseg_modules')


def build(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    return MODELS.build({**CONFIG, **options})


def sample(labels: np.ndarray) -> SegDataSample:
    found = SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(labels)[None]))
    found.set_metainfo(dict(img_shape=labels.shape))
    return found


def squares(height: int = 32, width: int = 32) -> np.ndarray:
    """An object with the annotators' band around it."""
    labels = np.zeros((height, width), np.int64)
    labels[6:22, 6:22] = 255
    labels[9:19, 9:19] = 5
    return labels


def batch(model, *labels: np.ndarray) -> dict:
    rng = np.random.default_rng(0)
    inputs = [torch.from_numpy(rng.integers(0, 255, (3, *mask.shape), np.uint8)) for mask in labels]
    data = dict(inputs=inputs, data_samples=[sample(mask) for mask in labels])
    return model.data_preprocessor(data, training=True)


def test_loss_is_that_of_the_image_without_padding():
    model = build().eval()
    data = batch(model, squares(28, 30))
    losses = model(**data, mode='loss')
    logits = model._logits(data['inputs'])
    assert data['inputs'].shape == (1, 3, 32, 32) and logits.shape == (1, 32, 32)
    labels = torch.from_numpy(squares(28, 30))[None]
    everything = torch.ones_like(labels, dtype=torch.bool)
    expected = boundary_loss(logits[:, :28, :30], labels == 255, everything, labels == 5)
    assert losses['loss_boundary'].item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(model.boundary(data['inputs']), logits.sigmoid())


def test_it_learns_a_boundary():
    model = build()
    data = batch(model, squares(), squares())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        losses = model(**data, mode='loss')
        losses['loss_boundary'].backward()
        optimizer.step()
    found = model.boundary(data['inputs'])[0] >= 0.5
    true = torch.from_numpy(squares()) == 255
    assert losses['recall_boundary'] > 90
    assert (found & true).sum() / (found | true).sum() > 0.6


def test_edges_instead_of_the_ignored_band():
    labels = squares()
    labels[labels == 255] = 0
    labels[:, 28:] = 255  # unlabelled: no boundary here, and does not count
    model = build(source='edges', edge_radius=1).eval()
    data = batch(model, labels)
    losses = model(**data, mode='loss')
    true = torch.from_numpy(labels)[None]
    edges, counted = boundary_target(true, 'edges', 1)
    expected = boundary_loss(model._logits(data['inputs']), edges, counted, true != 0)
    assert losses['loss_boundary'].item() == pytest.approx(expected.item(), rel=1e-6)
    nothing = build().eval()(**batch(model, np.full((32, 32), 7)), mode='loss')
    assert nothing['loss_boundary'].isfinite() and nothing['recall_boundary'] == 0


def test_errors():
    with pytest.raises(ValueError, match="'ignore', 'edges'.*'band'"):
        build(source='band')
    model = build()
    with pytest.raises(UserError, match='BoundaryNetwork trains on label maps'):
        model(torch.zeros(1, 3, 32, 32), [SegDataSample()], mode='loss')
