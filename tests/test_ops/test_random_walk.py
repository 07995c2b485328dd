from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_dhr.ops import (
    affinity_from_boundary,
    affinity_from_features,
    neighbour_offsets,
    random_walk,
)

OFFSETS = neighbour_offsets(5)


def _rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _reference_walk(scores: np.ndarray, affinity: np.ndarray, offsets: list, beta: float,
                    steps: int, inside: np.ndarray | None = None) -> np.ndarray:
    """Dense and in float64, for one image: (C, h, w) @ T ** steps."""
    height, width = scores.shape[1:]
    dense = np.eye(height * width)
    for k, (dy, dx) in enumerate(offsets):
        for y, x in np.argwhere(np.ones((height, width))):
            v, u = y + dy, x + dx
            if 0 <= v < height and 0 <= u < width and (
                    inside is None or inside[y, x] and inside[v, u]):
                one, other = y * width + x, v * width + u
                dense[one, other] = dense[other, one] = affinity[k, y, x]
    transition = dense**beta
    transition /= transition.sum(0)
    return (scores.reshape(len(scores), -1) @ np.linalg.matrix_power(transition, steps)).reshape(
        scores.shape)


class TestOffsets:

    def test_half_of_the_neighbours(self) -> None:
        offsets = neighbour_offsets(5)
        assert len(offsets) == len(set(offsets)) == 34
        both = {*offsets, *((-y, -x) for y, x in offsets)}
        disc = {(y, x) for y in range(-9, 10) for x in range(-9, 10) if 0 < y * y + x * x < 25}
        assert both == disc
        assert neighbour_offsets(2) == [(0, 1), (1, -1), (1, 0), (1, 1)]

    def test_error(self) -> None:
        with pytest.raises(ValueError, match='at least 2'):
            neighbour_offsets(1)


class TestAffinity:

    @pytest.mark.parametrize('size', [(7, 9), (1, 12), (3, 2), (1, 1)])
    def test_features_equal_reference(self, size: tuple[int, int]) -> None:
        features = _rand(2, 3, *size)
        got = affinity_from_features(features)
        assert got.shape == (2, 34, *size)
        for index, value in np.ndenumerate(got.numpy()):
            batch, k, y, x = index
            v, u = y + OFFSETS[k][0], x + OFFSETS[k][1]
            expected = 0.0
            if 0 <= v < size[0] and 0 <= u < size[1]:
                distance = (features[batch, :, y, x] - features[batch, :, v, u]).abs().mean()
                expected = np.exp(-distance.item())
            assert value == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize('size', [(7, 9), (1, 12), (3, 2), (1, 1)])
    def test_boundary_equals_reference(self, size: tuple[int, int]) -> None:
        boundary = _rand(1, *size).numpy()
        got = affinity_from_boundary(torch.as_tensor(boundary))[0].numpy()
        for (k, y, x), value in np.ndenumerate(got):
            (dy, dx), expected = OFFSETS[k], 0.0
            if y + dy < size[0] and 0 <= x + dx < size[1]:
                # Closer than 1 to the line through both, by the area of a triangle.
                way = [(v, u) for v in range(y, y + dy + 1)
                       for u in range(min(x, x + dx), max(x, x + dx) + 1)
                       if abs(dy * (u - x) - dx * (v - y)) / np.hypot(dy, dx) < 1]
                expected = 1 - max(boundary[0, v, u] for v, u in way)
            assert value == pytest.approx(expected, abs=1e-6)

    def test_thin_boundary_parts_the_sides(self) -> None:
        boundary = torch.eye(9)[None]  # one pixel thin, touching at corners alone
        affinity = affinity_from_boundary(boundary)
        side = torch.zeros(1, 1, 9, 9)
        side[0, 0] = torch.ones(9, 9).triu(1)
        walked = random_walk(side, affinity, OFFSETS, num_steps=50)
        torch.testing.assert_close(walked[0, 0], torch.ones(9, 9).triu(1))

    def test_float32_and_gradients(self) -> None:
        features = _rand(1, 4, 6, 5).bfloat16().requires_grad_()
        with torch.autocast('cpu', dtype=torch.bfloat16):
            affinity = affinity_from_features(features)
            boundary = affinity_from_boundary(_rand(1, 6, 5).bfloat16())
        assert affinity.dtype == boundary.dtype == torch.float32
        torch.testing.assert_close(affinity, affinity_from_features(features.float()))
        affinity.sum().backward()
        assert torch.isfinite(features.grad).all() and features.grad.abs().max() > 0

    def test_shape_error(self) -> None:
        with pytest.raises(ValueError, match=r'\(B, h, w\)'):
            affinity_from_boundary(torch.zeros(1, 1, 4, 4))


class TestRandomWalk:

    @pytest.mark.parametrize('size', [(7, 9), (1, 12), (3, 2), (1, 1)])
    @pytest.mark.parametrize('steps', [0, 1, 5, 64])
    def test_equals_dense(self, size: tuple[int, int], steps: int) -> None:
        scores, affinity = _rand(1, 3, *size), affinity_from_features(_rand(1, 4, *size) * 3)
        got = random_walk(scores, affinity, OFFSETS, beta=8, num_steps=steps)[0].numpy()
        expected = _reference_walk(scores[0].double().numpy(), affinity[0].double().numpy(),
                                   OFFSETS, 8, steps)
        np.testing.assert_allclose(got, expected, rtol=2e-5)

    def test_columns_sum_to_one(self) -> None:
        """By hand: two pixels of affinity 1/2 and one alone."""
        scores = torch.tensor([[[[1.0, 0.0, 4.0]]]])
        affinity = torch.tensor([[[[0.5, 0.0, 0.0]]]])
        got = random_walk(scores, affinity, [(0, 1)], beta=1, num_steps=1)
        torch.testing.assert_close(got, torch.tensor([[[[2 / 3, 1 / 3, 4.0]]]]))
        got = random_walk(scores, affinity, [(0, 1)], beta=2, num_steps=1)
        torch.testing.assert_close(got, torch.tensor([[[[0.8, 0.2, 4.0]]]]))

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 300), st.integers(0, 999),
           st.integers(2, 5))
    def test_law_averages(self, height: int, width: int, steps: int, seed: int,
                          radius: int) -> None:
        """Constants stay, extremes do not grow, and the sum weighted by the degrees is kept."""
        scores = _rand(1, 2, height, width, seed=seed)
        scores[:, 1] = 0.7
        offsets = neighbour_offsets(radius)
        affinity = _rand(1, len(offsets), height, width, seed=seed + 1)
        got = random_walk(scores, affinity, offsets, 2, steps)
        torch.testing.assert_close(got[:, 1], scores[:, 1], atol=0, rtol=1e-5)
        assert got[:, 0].max() <= scores[:, 0].max() * 1.00001
        assert got[:, 0].min() >= scores[:, 0].min() * 0.99999
        # 1 / d: what a lone unit leaves behind in one step where it stood.
        unit = torch.eye(height * width).view(1, -1, height, width)
        stays = random_walk(unit, affinity, offsets, 2, 1)[0].flatten(1).diagonal()
        degree = (1 / stays).view(height, width)
        torch.testing.assert_close((got[0, 0] * degree).sum(), (scores[0, 0] * degree).sum(),
                                   atol=1e-5, rtol=1e-4)

    def test_batch_with_padding_equals_one_by_one(self) -> None:
        sizes = [(6, 5), (1, 7), (4, 4)]
        scores, affinity = _rand(3, 2, 6, 7), _rand(3, 34, 6, 7)
        inside = torch.zeros(3, 6, 7, dtype=torch.bool)
        for image, (height, width) in enumerate(sizes):
            inside[image, :height, :width] = True
        scores.masked_fill_(~inside[:, None], float('nan'))
        got = random_walk(scores, affinity, OFFSETS, 3, 20, inside)
        assert got.masked_fill(inside[:, None], 0).abs().max() == 0
        for image, (height, width) in enumerate(sizes):
            part = np.s_[image:image + 1, :, :height, :width]
            alone = random_walk(scores[part], affinity[part], OFFSETS, 3, 20)
            torch.testing.assert_close(got[part], alone)

    def test_mask_with_holes_equals_dense(self) -> None:
        scores, affinity, inside = _rand(1, 2, 6, 7), _rand(1, 34, 6, 7), _rand(1, 6, 7) > 0.3
        got = random_walk(scores, affinity, OFFSETS, 2, 9, inside)[0].numpy()
        known = inside[0].numpy()
        expected = _reference_walk(scores[0].double().numpy() * known,
                                   affinity[0].double().numpy(), OFFSETS, 2, 9, known)
        np.testing.assert_allclose(got, expected, rtol=2e-5)

    def test_no_affinity_moves_nothing(self) -> None:
        scores, affinity = _rand(1, 1, 5, 5), torch.zeros(1, 34, 5, 5)
        assert torch.equal(random_walk(scores, affinity, OFFSETS), scores)
        assert torch.equal(random_walk(scores, affinity * float('nan'), OFFSETS), scores)

    def test_no_class(self) -> None:
        got = random_walk(_rand(2, 0, 3, 4), _rand(2, 34, 3, 4), OFFSETS, num_steps=2)
        assert got.shape == (2, 0, 3, 4)

    def test_bfloat16_is_computed_in_float32(self) -> None:
        scores, affinity = _rand(1, 2, 5, 6).bfloat16(), _rand(1, 34, 5, 6).bfloat16()
        with torch.autocast('cpu', dtype=torch.bfloat16):
            got = random_walk(scores, affinity, OFFSETS, num_steps=30)
        assert got.dtype == torch.float32
        expected = random_walk(scores.float(), affinity.float(), OFFSETS, num_steps=30)
        assert torch.equal(got, expected)

    @pytest.mark.parametrize(('change', 'message'), [
        (dict(scores=torch.zeros(2, 4, 4)), r'\(B, C, h, w\)'),
        (dict(affinity=torch.zeros(1, 33, 4, 4)), r'affinity of shape \(1, 34, 4, 4\)'),
        (dict(pixel_mask=torch.ones(1, 4, 5).bool()), r'pixel_mask of shape \(1, 4, 4\)'),
        (dict(beta=0), 'positive beta'),
        (dict(num_steps=-1), 'num_steps'),
    ])
    def test_errors(self, change: dict, message: str) -> None:
        kwargs = dict(scores=torch.zeros(1, 2, 4, 4), affinity=torch.zeros(1, 34, 4, 4),
                      offsets=OFFSETS)
        with pytest.raises(ValueError, match=message):
            random_walk(**{**kwargs, **change})
