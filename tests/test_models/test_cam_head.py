from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmseg_dhr.models import CAMHead


def test_maps_skip_the_background() -> None:
    head = CAMHead(in_channels=4, num_classes=5, background_index=2)
    assert head.foreground == [0, 1, 3, 4]
    assert head([torch.rand(2, 3, 9, 9), torch.rand(2, 4, 6, 7)]).shape == (2, 4, 6, 7)
    assert head.tag_targets([(0, 4), ()]).tolist() == [[1, 0, 0, 1], [0, 0, 0, 0]]


def test_without_background_every_class_has_a_map() -> None:
    head = CAMHead(4, num_classes=3, background_index=None)
    assert head([torch.rand(1, 4, 2, 2)]).shape[1] == 3


def test_pool_stride_halves_the_grid_also_when_odd() -> None:
    head = CAMHead(4, 3, pool_stride=2)
    assert head([torch.rand(1, 4, 7, 8)]).shape[-2:] == (4, 4)


def test_logits_average_over_valid_cells_only() -> None:
    maps = torch.tensor([[[[1.0, 3.0], [50.0, 70.0]]]])
    inside = torch.tensor([[[True, True], [False, False]]])
    assert CAMHead.tag_logits(maps, inside).item() == 2.0


def test_loss_equals_torch() -> None:
    head = CAMHead(4, 4)
    maps, targets = torch.randn(3, 3, 5, 5), torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1]])
    losses = head.loss(maps, torch.ones(3, 5, 5, dtype=torch.bool), targets)
    expected = torch.nn.MultiLabelSoftMarginLoss()(maps.mean((2, 3)), targets)
    torch.testing.assert_close(losses['loss_cls'], expected)
    right = ((maps.mean((2, 3)) > 0) == (targets > 0)).float().mean() * 100
    torch.testing.assert_close(losses['acc_cls'], right)


@pytest.mark.parametrize('tags', [(0, ), (7, ), (-1, )])
def test_a_tag_that_is_no_foreground_class(tags: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match='foreground labels'):
        CAMHead(4, 5).tag_targets([tags])


def test_background_out_of_range() -> None:
    with pytest.raises(ValueError, match='background_index'):
        CAMHead(4, 5, background_index=5)


def test_gradient_reaches_the_features() -> None:
    head = CAMHead(4, 3)
    features = torch.rand(1, 4, 3, 3, requires_grad=True)
    head.loss(head([features]), torch.ones(1, 3, 3, dtype=torch.bool),
              torch.tensor([[1.0, 0]]))['loss_cls'].backward()
    assert features.grad is not None and features.grad.abs().sum() > 0
    assert F.relu(features.grad).isfinite().all()
