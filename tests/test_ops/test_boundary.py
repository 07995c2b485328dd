from __future__ import annotations

import numpy as np
import pytest
import torch

from mmseg_dhr.ops.boundary import boundary_loss, boundary_target, label_edges


def edges_by_loop(labels: np.ndarray, radius: int) -> np.ndarray:
    height, width = labels.shape
    edges = np.zeros(labels.shape, bool)
    for y in range(height):
        for x in range(width):
            around = labels[max(0, y - radius):y + radius + 1, max(0, x - radius):x + radius + 1]
            known = around[around != 255]
            edges[y, x] = labels[y, x] != 255 and (known != labels[y, x]).any()
    return edges


@pytest.mark.parametrize('radius', [1, 2, 3])
@pytest.mark.parametrize('shape', [(9, 13), (1, 7), (2, 2), (1, 1)])
def test_edges_are_those_of_a_loop(radius, shape):
    rng = np.random.default_rng(radius)
    labels = rng.choice([0, 3, 20, 255], (2, *shape), p=[.5, .2, .1, .2]).astype(np.uint8)
    found = label_edges(torch.from_numpy(labels), radius).numpy()
    for mask, edges in zip(labels, found, strict=True):
        np.testing.assert_array_equal(edges, edges_by_loop(mask, radius))


def test_no_edge_without_another_label():
    labels = torch.full((1, 6, 6), 7)
    labels[0, 2:4] = 255
    assert not label_edges(labels).any()
    assert not label_edges(torch.full((1, 6, 6), 255)).any()


def test_targets_of_both_sources():
    labels = torch.zeros(1, 5, 9, dtype=torch.long)
    labels[..., 4:] = 2
    labels[0, 0, 0] = 255
    boundary, counted = boundary_target(labels)
    assert boundary.sum() == 1 and boundary[0, 0, 0] and counted.all()
    boundary, counted = boundary_target(labels, 'edges', radius=1)
    assert boundary[0, :, 3:5].all() and boundary.sum() == 10
    assert counted.sum() == 44 and not counted[0, 0, 0]


def test_loss_by_hand():
    logits = torch.tensor([[[2.0, -1.0, 0.5, 3.0, -2.0]]])
    boundary = torch.tensor([[[True, False, False, False, True]]])
    counted = torch.tensor([[[True, True, True, True, False]]])
    foreground = torch.tensor([[[False, True, False, True, False]]])

    def p(x):
        return 1 / (1 + np.exp(-x))

    expected = (-np.log(p(2.0)) - 0.5 * np.mean([np.log(1 - p(-1.0)), np.log(1 - p(3.0))])
                - 0.5 * np.log(1 - p(0.5)))
    assert boundary_loss(logits, boundary, counted, foreground).item() == pytest.approx(expected,
                                                                                        rel=1e-6)


def test_sets_have_equal_weight_whatever_their_size():
    """Copies of a background pixel do not change the loss."""
    logits = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    boundary = torch.tensor([[[True, False, False], [False, True, False]]])
    foreground = torch.tensor([[[False, True, False], [True, False, False]]])
    everything = torch.ones_like(boundary)
    loss = boundary_loss(logits, boundary, everything, foreground)
    background = ~boundary & ~foreground

    def longer(x):
        return torch.cat([x[:, None].flatten(1), x[background][None].repeat(1, 9)], 1)[:, None]

    same = boundary_loss(*(longer(x) for x in (logits, boundary, everything, foreground)))
    assert same.item() == pytest.approx(loss.item(), rel=1e-6)


def test_empty_sets_and_half_precision():
    logits = torch.full((1, 3, 3), 30.0, dtype=torch.float16, requires_grad=True)
    nothing = torch.zeros(1, 3, 3, dtype=torch.bool)
    loss = boundary_loss(logits, nothing, nothing, nothing)
    loss.backward()
    assert loss.item() == 0 and loss.dtype == torch.float32
    assert logits.grad is not None and not logits.grad.any()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = boundary_loss(logits, nothing, ~nothing, nothing)
    assert loss.item() == pytest.approx(15.0)  # softplus(30) / 2, no overflow


def test_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="'ignore', 'edges'.*'lines'"):
        boundary_target(torch.zeros(1, 2, 2), 'lines')
    with pytest.raises(ValueError, match='at least 1, but got 0'):
        label_edges(torch.zeros(1, 2, 2), 0)
