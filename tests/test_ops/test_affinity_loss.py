from __future__ import annotations

import numpy as np
import pytest
import torch

from mmseg_dhr.ops import affinity_losses, agreed_labels, neighbour_offsets

OFFSETS = neighbour_offsets(3)
EPS = 1e-5


def _rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _labels(*shape: int, high: int = 3, seed: int = 0) -> torch.Tensor:
    labels = torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(_rand(*shape, seed=seed + 1) < 0.2, torch.full_like(labels, 255), labels)


def _reference(affinity: np.ndarray, labels: np.ndarray, background: int | None) -> list[float]:
    """A loop over all pairs."""
    terms: dict[str, list[float]] = dict(background=[], foreground=[], negative=[])
    for (b, k, y, x), value in np.ndenumerate(affinity):
        v, u = y + OFFSETS[k][0], x + OFFSETS[k][1]
        if not (0 <= v < labels.shape[1] and 0 <= u < labels.shape[2]):
            continue
        one, other = labels[b, y, x], labels[b, v, u]
        if 255 in (one, other):
            continue
        if one != other:
            terms['negative'].append(-np.log(1 - value + EPS))
        else:
            kind = 'background' if one == background else 'foreground'
            terms[kind].append(-np.log(value + EPS))
    return [float(np.mean(values)) if values else 0.0 for values in terms.values()]


class TestAffinityLosses:

    @pytest.mark.parametrize('background', [0, 2, None])
    @pytest.mark.parametrize('size', [(5, 7), (1, 6), (2, 1), (1, 1)])
    def test_equals_loop(self, size: tuple[int, int], background: int | None) -> None:
        affinity, labels = _rand(2, len(OFFSETS), *size), _labels(2, *size)
        got = affinity_losses(affinity, labels, OFFSETS, background)
        expected = _reference(affinity.double().numpy(), labels.numpy(), background)
        np.testing.assert_allclose([loss.item() for loss in got], expected, rtol=1e-5)
        assert float(got.total) == pytest.approx(expected[0] / 4 + expected[1] / 4
                                                 + expected[2] / 2, rel=1e-5)

    def test_by_hand(self) -> None:
        """One row: background, background, a, a, unknown."""
        labels = torch.tensor([[[0, 0, 1, 1, 255]]])
        affinity = torch.tensor([[[[0.5, 0.25, 0.125, 0.9, 0.0]]]])
        got = affinity_losses(affinity, labels, [(0, 1)], eps=0.0)
        np.testing.assert_allclose([loss.item() for loss in got],
                                   [np.log(2), np.log(8), -np.log(0.75)], rtol=1e-6)

    def test_nothing_known(self) -> None:
        affinity = _rand(1, len(OFFSETS), 4, 4).requires_grad_()
        got = affinity_losses(affinity, torch.full((1, 4, 4), 255), OFFSETS)
        assert [loss.item() for loss in got] == [0.0] * 3
        got.total.backward()
        assert not affinity.grad.any()

    @pytest.mark.parametrize('value', [0.0, 1.0])
    def test_gradients_are_finite(self, value: float) -> None:
        affinity = torch.full((1, len(OFFSETS), 4, 4), value).requires_grad_()
        affinity_losses(affinity, _labels(1, 4, 4), OFFSETS).total.backward()
        assert torch.isfinite(affinity.grad).all() and affinity.grad.any()

    def test_half_precision(self) -> None:
        affinity, labels = _rand(1, len(OFFSETS), 4, 4).bfloat16(), _labels(1, 4, 4)
        got = affinity_losses(affinity, labels, OFFSETS)
        assert got.total.dtype == torch.float32
        torch.testing.assert_close(got, affinity_losses(affinity.float(), labels, OFFSETS))

    @pytest.mark.parametrize('affinity, labels', [((1, 3, 4, 4), (1, 4, 4)),
                                                  ((1, len(OFFSETS), 4, 4), (1, 4, 5)),
                                                  ((len(OFFSETS), 4, 4), (1, 4, 4))])
    def test_shape_error(self, affinity: tuple[int, ...], labels: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r'labels \(B, h, w\)'):
            affinity_losses(torch.zeros(affinity), torch.zeros(labels), OFFSETS)


def test_agreed_labels() -> None:
    first = torch.tensor([[0, 0, 1, 2]], dtype=torch.uint8)
    second = torch.tensor([[0, 1, 1, 1]], dtype=torch.uint8)
    assert agreed_labels(first, second).tolist() == [[0, 255, 1, 255]]
    assert agreed_labels(first, second).dtype == torch.uint8
