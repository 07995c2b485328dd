from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS

from mmseg_dhr.models import DeepLabV2Head


@pytest.fixture
def head(mmseg_modules) -> DeepLabV2Head:
    torch.manual_seed(0)
    return MODELS.build(dict(type='DeepLabV2Head', in_channels=6, in_index=1, num_classes=5,
                             dilations=(1, 2, 3), dropout_ratio=0.))


def test_adds_up_dilated_classifiers(head) -> None:
    x = torch.randn(2, 6, 9, 7)
    expected = sum(F.conv2d(x, conv.weight, conv.bias, padding=d, dilation=d)
                   for d, conv in zip((1, 2, 3), head.conv_seg, strict=True))
    torch.testing.assert_close(head([torch.zeros(1), x]), expected)
    assert expected.shape == (2, 5, 9, 7)


def test_parameters_are_the_classifiers_alone(head) -> None:
    assert {tuple(p.shape) for p in head.parameters()} == {(5, 6, 3, 3), (5, )}
    assert len(list(head.parameters())) == 6
    wide = MODELS.build(dict(type='DeepLabV2Head', in_channels=64, num_classes=5, in_index=0))
    assert [conv.dilation for conv in wide.conv_seg] == [(d, d) for d in (6, 12, 18, 24)]
    wide.init_weights()  # normal with std 0.01, as every classifier of mmseg
    for conv in wide.conv_seg:
        assert conv.weight.std().item() == pytest.approx(.01, rel=.1)
        assert conv.bias.abs().sum() == 0


def test_dropout_comes_before_the_sum(mmseg_modules) -> None:
    head = MODELS.build(dict(type='DeepLabV2Head', in_channels=6, num_classes=5, in_index=0,
                             dropout_ratio=1 - 1e-6)).train()
    for conv in head.conv_seg:
        torch.nn.init.zeros_(conv.bias)
    assert head([torch.ones(1, 6, 4, 4)]).abs().sum() == 0
    assert head.eval()([torch.ones(1, 6, 4, 4)]).abs().sum() > 0
