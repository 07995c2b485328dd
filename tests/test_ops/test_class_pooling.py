from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_dhr.ops import (
    class_area_fractions,
    class_average_pool,
    class_similarity,
    majority_vote,
)


def _reference_fractions(mask: np.ndarray, label: int, cells: tuple[int, int]) -> np.ndarray:
    """Upsample pixels to a common grid by repetition, then average over whole cells."""
    (height, width), (rows, columns) = mask.shape, cells
    fine = (mask == label).astype(float).repeat(rows, 0).repeat(columns, 1)
    return fine.reshape(rows, height, columns, width).mean((1, 3))


class TestAreaFractions:

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 13), st.integers(1, 13), st.integers(1, 6), st.integers(1, 6),
           st.integers(0, 99))
    def test_equals_reference_on_any_grid(self, height: int, width: int, rows: int, columns: int,
                                          seed: int) -> None:
        mask = np.random.default_rng(seed).integers(0, 4, (height, width))
        got = class_area_fractions(
            torch.as_tensor(mask)[None], torch.tensor([[0, 2, 3]]), torch.ones(1, 3).bool(),
            (rows, columns))
        for channel, label in enumerate((0, 2, 3)):
            np.testing.assert_allclose(got[0, channel].numpy(),
                                       _reference_fractions(mask, label, (rows, columns)),
                                       atol=1e-5)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9),
           st.integers(0, 99))
    def test_equal_areas_are_equal_numbers(self, height: int, width: int, rows: int, columns: int,
                                           seed: int) -> None:
        mask = np.random.default_rng(seed).integers(0, 3, (height, width))
        fractions = class_area_fractions(
            torch.as_tensor(mask)[None], torch.tensor([[0, 1, 2]]), torch.ones(1, 3).bool(),
            (rows, columns))
        exact = np.stack([_reference_fractions(mask, label, (rows, columns)) * height * width
                          for label in range(3)]).round()  # whole numbers
        np.testing.assert_array_equal((fractions[0] * height * width).round().numpy(), exact)
        winner = majority_vote(fractions)[0].argmax(0).numpy()
        np.testing.assert_array_equal(winner, exact.argmax(0))  # the first of equals

    def test_a_class_that_dominates_no_cell_keeps_its_area(self) -> None:
        mask = torch.zeros(1, 8, 8, dtype=torch.long)
        mask[0, 3, 3] = 7
        got = class_area_fractions(mask, torch.tensor([[0, 7]]), torch.ones(1, 2).bool(), (2, 2))
        assert got[0, 1].tolist() == [[1 / 16, 0.0], [0.0, 0.0]]

    def test_ignore_and_unused_channels_count_for_nothing(self) -> None:
        mask = torch.full((1, 4, 4), 255)
        got = class_area_fractions(mask, torch.tensor([[0, -1]]), torch.tensor([[True, False]]),
                                   (2, 2))
        assert got.abs().max() == 0

    def test_shape_error(self) -> None:
        with pytest.raises(ValueError, match=r'mask \(B, H, W\)'):
            class_area_fractions(torch.zeros(4, 4), torch.zeros(1, 2), torch.ones(1, 2), (2, 2))


class TestAveragePool:

    def test_equals_loop(self) -> None:
        rng = np.random.default_rng(0)
        features, weights = rng.normal(size=(5, 3, 4)), rng.random((2, 3, 4))
        expected = [[sum(weights[c, i, j] * features[d, i, j] for i in range(3) for j in range(4))
                     / weights[c].sum() for d in range(5)] for c in range(2)]
        centroids, present = class_average_pool(
            torch.as_tensor(features)[None], torch.as_tensor(weights)[None])
        np.testing.assert_allclose(centroids[0].numpy(), expected, rtol=1e-4, atol=1e-6)
        assert present.tolist() == [[True, True]]

    def test_class_without_area(self) -> None:
        weights = torch.zeros(1, 2, 2, 2)
        weights[0, 0] = 1
        centroids, present = class_average_pool(torch.rand(1, 3, 2, 2), weights)
        assert present.tolist() == [[True, False]]
        assert centroids[0, 1].tolist() == [0, 0, 0]
        assert class_similarity(torch.rand(1, 3, 2, 2), centroids)[0, 1].abs().max() == 0

    @pytest.mark.parametrize('value', ['nan', 'inf', '-inf'])
    def test_a_cell_that_is_not_finite_is_left_out(self, value: str) -> None:
        features = torch.tensor([[[[1.0, 3.0, 5.0]], [[2.0, 4.0, 6.0]]]])
        features[0, 1, 0, 2] = float(value)
        centroids, present = class_average_pool(features, torch.tensor([[[[1.0, 1, 1]],
                                                                         [[0, 0, 1]]]]))
        assert centroids.tolist() == [[[2.0, 3.0], [0.0, 0.0]]]
        assert present.tolist() == [[True, False]]

    def test_float32_under_autocast(self) -> None:
        features, weights = torch.rand(1, 8, 4, 4), torch.rand(1, 2, 4, 4)
        mask, used = torch.randint(0, 2, (1, 13, 11)), torch.ones(1, 2).bool()
        expected = class_average_pool(features, weights)[0]
        area = class_area_fractions(mask, torch.tensor([[0, 1]]), used, (4, 4))
        with torch.autocast('cpu', dtype=torch.bfloat16):
            centroids = class_average_pool(features, weights)[0]
            similarity = class_similarity(features, centroids)
            got = class_area_fractions(mask, torch.tensor([[0, 1]]), used, (4, 4))
        assert centroids.dtype == similarity.dtype == got.dtype == torch.float32
        torch.testing.assert_close(centroids, expected)
        assert torch.equal(similarity, class_similarity(features, expected))
        assert torch.equal(got, area)

    def test_grid_error(self) -> None:
        with pytest.raises(ValueError, match='same grid'):
            class_average_pool(torch.rand(1, 3, 2, 2), torch.rand(1, 2, 4, 4))


def test_similarity_is_the_rectified_cosine() -> None:
    features = torch.tensor([[[[3.0, 0.0, -2.0]], [[0.0, 5.0, 0.0]]]])  # (1, 2, 1, 3)
    centroids = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    got = class_similarity(features, centroids)[0, :, 0]
    torch.testing.assert_close(got, torch.tensor([[1, 0, 0], [0.5**0.5, 0.5**0.5, 0]]))


def test_similarity_of_features_that_are_not_finite_is_zero() -> None:
    features = torch.tensor([[[[float('nan'), float('inf'), 1.0]], [[1.0, 1.0, 0.0]]]])
    got = class_similarity(features, torch.tensor([[[1.0, 0.0]]]))
    assert got.tolist() == [[[[0.0, 0.0, 1.0]]]]


def test_majority_vote_by_hand() -> None:
    fractions = torch.tensor([[[[0.6, 0.5, 0.0]], [[0.4, 0.5, 0.0]]]])
    assert majority_vote(fractions).tolist() == [[[[1, 1, 0]], [[0, 0, 0]]]]
