"""The networks that make CAMs: CAMClassifier and SEAM."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_dhr.models.cam.seam import PixelCorrelation
from mmseg_dhr.ops import cam_scores, cross_equivariance_loss, equivariance_loss, pixel_correlation
from mmseg_dhr.utils import UserError

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
PREPROCESSOR = dict(type='SegDataPreProcessor', mean=MEAN, std=STD, bgr_to_rgb=True, pad_val=0,
                    size=(64, 64))
SEAM = dict(tap_indices=(1, 2), tap_in_channels=(16, 32), tap_channels=(4, 6), rescale=0.5)


@pytest.fixture
def build(mmseg_modules) -> Callable[..., Any]:
    """Builds a tiny model for eight foreground classes."""

    def make(kind: str = 'SEAM', **options: Any) -> Any:
        torch.manual_seed(0)
        backbone = dict(type='ResNetV1c', depth=18, base_channels=8, stem_channels=8,
                        strides=(1, 2, 1, 1), dilations=(1, 1, 1, 2), norm_eval=True)
        more = {**(SEAM if kind == 'SEAM' else {}), **options}
        model = MODELS.build(dict(
            type=kind, **{'backbone': backbone, 'data_preprocessor': PREPROCESSOR, **more},
            cam_head=dict(type='CAMHead', in_channels=64, num_classes=9)))
        model.cam_head.classifier.weight.data.normal_()
        return model.train()

    return make


@pytest.fixture
def batch() -> tuple[Tensor, list[SegDataSample]]:
    """Three images, one of them padded, one without tag."""
    torch.manual_seed(1)
    samples = [SegDataSample(metainfo=dict(image_labels=tags, img_shape=shape))
               for tags, shape in (((1, 3), (64, 64)), ((8, ), (40, 64)), ((), (64, 64)))]
    return torch.randn(3, 3, 64, 64), samples


TAGS = torch.zeros(3, 8)
TAGS[0, [0, 2]] = TAGS[1, 7] = 1


def inside(grid: int) -> Tensor:
    """Cells of the batch that are no padding."""
    mask = torch.ones(3, grid, grid, dtype=torch.bool)
    mask[1, round(grid * 40 / 64):] = False
    return mask


def test_classifier_by_hand(build, batch) -> None:
    model = build('CAMClassifier')
    images, samples = batch
    maps = model.cam_head(model.backbone(images))
    losses = model(images, samples, mode='loss')
    expected = model.cam_head.loss(maps, inside(8), TAGS)
    assert set(losses) == {'loss_cls', 'acc_cls'}
    torch.testing.assert_close(losses['loss_cls'], expected['loss_cls'])
    torch.testing.assert_close(model(images), maps)


def test_rgb_to_inputs_is_the_preprocessor(build) -> None:
    model = build('CAMClassifier')
    rgb = torch.randint(0, 256, (1, 3, 64, 64))
    given = model.data_preprocessor(dict(inputs=[rgb[0].flip(0)], data_samples=None))['inputs']
    torch.testing.assert_close(model.rgb_to_inputs(rgb), torch.as_tensor(given))


def test_channels_last_changes_nothing(build, batch) -> None:
    plain, fast = build(), build(channels_last=True)
    for model, expected in ((plain, False), (fast, True)):
        weight = model.backbone.layer1[0].conv1.weight  # 3x3: the two layouts differ
        assert weight.is_contiguous(memory_format=torch.channels_last) is expected
    torch.testing.assert_close(fast.cam_maps(batch[0]), plain.cam_maps(batch[0]), rtol=1e-3,
                               atol=1e-3)


def test_seam_losses_by_hand(build, batch) -> None:
    """From the operators, for the image and its half."""
    model = build()
    images, samples = batch
    small = F.interpolate(images, scale_factor=0.5, mode='bilinear', antialias=True)
    raw, refined, tagged = [], [], []
    for view, grid in ((images, 8), (small, 4)):
        levels = model.backbone(view)
        maps = model.cam_head(levels)
        assert maps.shape[-2:] == (grid, grid)
        tagged.append(model.cam_head.loss(maps, inside(grid), TAGS)['loss_cls'])
        raw.append(cam_scores(maps, TAGS, inside(grid)))
        features = model.pcm(view, [levels[1], levels[2]], (grid, grid))
        refined.append(pixel_correlation(raw[-1], features, inside(grid)))
    moved = [F.avg_pool2d(maps, 2) for maps in (raw[0], refined[0])]
    losses = model(images, samples, mode='loss')
    torch.testing.assert_close(losses['loss_cls'], sum(tagged) / 2)
    torch.testing.assert_close(losses['loss_er'], equivariance_loss(moved[0], raw[1], inside(4)))
    torch.testing.assert_close(losses['loss_ecr'], cross_equivariance_loss(
        moved[0], moved[1], raw[1], refined[1], inside(4), 0.2))
    assert losses['loss_er'] > 0 and losses['loss_ecr'] > losses['loss_er']


def test_weights_of_the_losses(build, batch) -> None:
    one, other = build()(*batch, mode='loss'), build(er_weight=2.0, ecr_weight=0.5)(
        *batch, mode='loss')
    torch.testing.assert_close(other['loss_er'], 2 * one['loss_er'])
    torch.testing.assert_close(other['loss_ecr'], 0.5 * one['loss_ecr'])


def test_refined_maps_by_hand(build, batch) -> None:
    model = build()
    levels = model.backbone(batch[0])
    features = model.pcm(batch[0], levels[1:3], levels[-1].shape[-2:])
    expected = pixel_correlation(model.cam_head(levels).relu(), features)
    torch.testing.assert_close(model.cam_maps(batch[0]), expected)


def test_features_of_the_pcm_by_hand() -> None:
    torch.manual_seed(0)
    pcm = PixelCorrelation((3, 5), (2, 4), 6)
    image, taps = torch.randn(1, 3, 8, 8), [torch.randn(1, 3, 4, 4), torch.randn(1, 5, 2, 2)]
    reduced = [F.relu(torch.einsum('dc,nchw->ndhw', conv.weight[:, :, 0, 0], tap))
               for conv, tap in zip(pcm.reduce, taps, strict=True)]
    joined = torch.cat([F.avg_pool2d(image, 4), F.avg_pool2d(reduced[0], 2), reduced[1]], 1)
    expected = torch.einsum('dc,nchw->ndhw', pcm.compare.weight[:, :, 0, 0], joined)
    torch.testing.assert_close(pcm(image, taps, (2, 2)), expected)


def test_where_gradients_flow(build, batch) -> None:
    """The PCM learns from ECR alone, the backbone from the tags and ER alone."""
    model = build()
    model._view(batch[0]).features.square().sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    for name in ('loss_er', 'loss_cls', 'loss_ecr'):
        model.zero_grad()
        model(*batch, mode='loss')[name].backward()
        learns = any(p.grad is not None and p.grad.abs().max() > 0
                     for p in model.pcm.parameters())
        assert learns == (name == 'loss_ecr')
        deep = model.backbone.layer4[0].conv1.weight.grad
        assert (deep is not None and deep.abs().max() > 0) == (name != 'loss_ecr')


def test_norm_eval_keeps_the_statistics(build, batch) -> None:
    for kept in (True, False):
        model = build(norm_eval=kept, backbone=dict(
            type='ResNetV1c', depth=18, base_channels=8, stem_channels=8, strides=(1, 2, 1, 1),
            dilations=(1, 1, 1, 2)))
        assert model.backbone.training
        before = model.backbone.layer1[0].bn1.running_mean.clone()
        model(*batch, mode='loss')
        assert torch.equal(model.backbone.layer1[0].bn1.running_mean, before) == kept


def test_maps_have_a_gradient_to_the_image(build, batch) -> None:
    """AdvCAM needs it."""
    model = build().eval()
    images = batch[0].requires_grad_()
    model.cam_maps(images).sum().backward()
    assert images.grad is not None and images.grad.abs().max() > 0


def test_training_lowers_the_losses(build, batch) -> None:
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    history = []
    for _ in range(8):
        losses = model(*batch, mode='loss')
        total = sum(value for name, value in losses.items() if 'loss' in name)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
    assert history[-1] < 0.85 * history[0]


def test_errors(build, batch) -> None:
    model = build('CAMClassifier')
    with pytest.raises(ValueError, match='predicts no masks'):
        model(*batch, mode='predict')
    with pytest.raises(UserError, match='TaggedDataset'):
        model(batch[0], [SegDataSample(metainfo=dict(img_shape=(64, 64)))] * 3, mode='loss')
    with pytest.raises(UserError, match='`mean`'):
        build('CAMClassifier', data_preprocessor=dict(type='SegDataPreProcessor'))
    with pytest.raises(ValueError, match='rescale'):
        build(rescale=1.0)
    with pytest.raises(ValueError, match='tap_channels'):
        PixelCorrelation((3, 4), (2, ))
