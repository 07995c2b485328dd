from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmseg_dhr.ops import (
    centroid_similarity,
    class_clusters,
    remove_biased,
    select_debiased,
    spherical_kmeans,
)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference_kmeans(points, weights, count, num_iters=20):
    """Loops over points and clusters, in float64."""
    kept = [(unit(p), w) for p, w in zip(points, weights, strict=True) if w > 0]
    mean = sum(w * p for p, w in kept)
    centroids = [max((p for p, _ in kept), key=lambda p: p @ mean)]
    while len(centroids) < count:
        centroids.append(min((p for p, _ in kept), key=lambda p: max(p @ c for c in centroids)))
    for _ in range(num_iters):
        groups = [[] for _ in centroids]
        for p, w in kept:
            groups[int(np.argmax([p @ c for c in centroids]))].append(w * p)
        centroids = [unit(sum(g)) if g else c for g, c in zip(groups, centroids, strict=True)]
    return np.array(centroids)


class TestSphericalKMeans:

    @pytest.mark.parametrize('count', [1, 2, 3, 5])
    def test_reference(self, count) -> None:
        rng = np.random.default_rng(count)
        points = rng.normal(size=(3, 40, 6)) + 0.5
        weights = rng.random((3, 40)) * (rng.random((3, 40)) > 0.3)
        found = spherical_kmeans(torch.from_numpy(points), torch.from_numpy(weights), count)
        assert found.centroids.dtype == torch.float32 and found.used.all()
        for row in range(3):
            expected = reference_kmeans(points[row], weights[row], count)
            np.testing.assert_allclose(found.centroids[row], expected, atol=1e-5)

    def test_weights_and_lengths(self) -> None:
        """Two directions; lengths count for nothing, weights do."""
        points = torch.tensor([[[1., 0.], [0., 9.], [0.6, 0.8], [-5., -5.]]])
        weights = torch.tensor([[1., 1., 2., 0.]])
        one = spherical_kmeans(points, weights, 1).centroids[0, 0]
        torch.testing.assert_close(one, F.normalize(torch.tensor([1 + 1.2, 1 + 1.6]), dim=0))
        two = spherical_kmeans(points, weights, 2).centroids[0]
        torch.testing.assert_close(two[0], F.normalize(torch.tensor([1.2, 2.6]), dim=0))
        torch.testing.assert_close(two[1], torch.tensor([1., 0.]))

    def test_fewer_points_than_clusters(self) -> None:
        points = torch.tensor([[[2., 0.], [1., 0.], [0., 1.]]]).repeat(3, 1, 1)
        weights = torch.tensor([[1., 1., 1.], [1., 1., 0.], [0., 0., 0.]])
        found = spherical_kmeans(points, weights, 4)
        assert found.used.sum(1).tolist() == [2, 1, 0]
        assert found.centroids[found.used].tolist() == [[1, 0], [0, 1], [1, 0]]
        assert found.centroids.isfinite().all()
        assert not spherical_kmeans(points[:, :0], weights[:, :0], 2).used.any()

    def test_points_that_are_none(self) -> None:
        points = torch.tensor([[[0., 0.], [math.nan, 1.], [0., math.inf], [3., 4.]]])
        found = spherical_kmeans(points, torch.ones(1, 4), 2)
        assert found.used.tolist() == [[True, False]]
        torch.testing.assert_close(found.centroids[0, 0], torch.tensor([0.6, 0.8]))

    def test_opposite_points(self) -> None:
        """Their mean has no direction."""
        found = spherical_kmeans(torch.tensor([[[1., 0.], [-1., 0.]]]), torch.ones(1, 2), 1)
        assert found.centroids.tolist() == [[[1, 0]]]

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_low_precision(self, dtype) -> None:
        points = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
        weights = torch.ones(2, 30, dtype=dtype)
        with torch.autocast('cpu', torch.bfloat16):
            half = spherical_kmeans(points, weights, 3)
        full = spherical_kmeans(points.double(), weights.double(), 3)
        assert torch.equal(half.centroids, full.centroids)

    @pytest.mark.parametrize(('points', 'weights', 'count'), [
        (torch.ones(2, 3), torch.ones(2, 3), 1),
        (torch.ones(2, 3, 4), torch.ones(2, 4), 1),
        (torch.ones(2, 3, 4), torch.ones(2, 3), 0),
    ])
    def test_errors(self, points, weights, count) -> None:
        with pytest.raises(ValueError, match='Expected points'):
            spherical_kmeans(points, weights, count)


def test_class_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 3, 5, generator=generator)
    weights = torch.rand(2, 3, 3, 5, generator=generator)
    weights[1, 2] = 0  # a class without a pixel
    found = class_clusters(features, weights, 2)
    assert found.centroids.shape == (2, 3, 2, 4)
    assert found.used.sum(2).tolist() == [[2, 2, 2], [2, 2, 0]]
    alone = spherical_kmeans(features[1].reshape(1, 4, 15).mT, weights[1, 1].reshape(1, 15), 2)
    torch.testing.assert_close(found.centroids[1, 1], alone.centroids[0])
    with pytest.raises(ValueError, match='same grid'):
        class_clusters(features, weights[:, :, :2], 2)


class TestSelectDebiased:

    def test_by_hand(self) -> None:
        background = torch.tensor([0.5, 0.0])
        candidates = torch.tensor([[3., 0.], [0., 2.], [-1., 0.], [1., 1.], [-1., 1.]])
        # cosines times .5: .5, 0, -.5, .35, -.35
        for keep, expected in ((0.2, [2]), (0.4, [2, 4]), (0.01, [2]), (0.6, [2, 4, 1]),
                               (1.0, [2, 4, 1, 3, 0])):
            chosen = select_debiased(candidates, background, keep)
            assert torch.equal(chosen, candidates[expected])

    def test_is_the_mean_cosine_with_all_backgrounds(self) -> None:
        rng = np.random.default_rng(0)
        backgrounds, candidates = unit(rng.normal(size=(50, 4))), unit(rng.normal(size=(9, 4)))
        order = (candidates @ backgrounds.T).mean(1).argsort()
        chosen = select_debiased(torch.from_numpy(candidates),
                                 torch.from_numpy(backgrounds.mean(0)), 0.5)
        np.testing.assert_array_equal(chosen, candidates[order[:4]])

    def test_no_candidate(self) -> None:
        assert select_debiased(torch.zeros(0, 3), torch.ones(3), 0.5).shape == (0, 3)

    @pytest.mark.parametrize(('shape', 'keep', 'message'), [
        ((2, 3), 0, 'in \\(0, 1\\], but got 0'), ((2, 3), 1.1, '1.1'), ((2, 4), .5, 'background')])
    def test_errors(self, shape, keep, message) -> None:
        with pytest.raises(ValueError, match=message):
            select_debiased(torch.ones(shape), torch.ones(3), keep)


def test_centroid_similarity() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 2, 3)).astype(np.float16)
    centroids = [rng.normal(size=(n, 4)).astype(np.float32) for n in (1, 3)]
    maps = centroid_similarity(torch.from_numpy(features), [torch.from_numpy(c) for c in centroids])
    pixels = unit(features.astype(np.float64).transpose(1, 2, 0))
    expected = [(pixels @ unit(c).T).max(-1) for c in centroids]
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    broken = torch.from_numpy(features).clone()
    broken[:, 0, 0], broken[0, 1, 1] = 0, math.nan
    maps = centroid_similarity(broken, [torch.from_numpy(c) for c in centroids])
    assert maps[:, [0, 1], [0, 1]].tolist() == [[0, 0], [0, 0]] and maps.isfinite().all()
    assert centroid_similarity(broken, []).shape == (0, 2, 3)


class TestRemoveBiased:
    MASK = torch.tensor([[1, 1, 2, 0], [1, 2, 2, 255]])
    MAPS = torch.tensor([[[.9, .3, .5, .1], [.5, .8, .2, .2]],
                         [[.0, .0, .4, .0], [.0, .2, .8, 2.]]])
    CLASSES = torch.tensor([1, 2])

    @pytest.mark.parametrize(('threshold', 'fill', 'expected'), [
        # class 1 scaled: 1, .25, .5; class 2: .5, .25, 1
        (0.0, 0, [[1, 1, 2, 0], [1, 2, 2, 255]]),
        (0.3, 0, [[1, 0, 2, 0], [1, 0, 2, 255]]),
        (0.4, 255, [[1, 255, 2, 0], [1, 255, 2, 255]]),
        (0.999, 0, [[1, 0, 0, 0], [0, 0, 2, 255]]),
    ])
    def test_by_hand(self, threshold, fill, expected) -> None:
        before = self.MASK.clone()
        found = remove_biased(self.MASK, self.MAPS, self.CLASSES, threshold, fill)
        assert found.tolist() == expected and torch.equal(self.MASK, before)

    def test_other_classes_stay(self) -> None:
        found = remove_biased(self.MASK, self.MAPS[:1], self.CLASSES[:1], 0.3)
        assert found.tolist() == [[1, 0, 2, 0], [1, 2, 2, 255]]
        assert torch.equal(remove_biased(self.MASK, self.MAPS[:0], self.CLASSES[:0], 0.3),
                           self.MASK)

    @pytest.mark.parametrize('mask', [torch.full((2, 4), 255), torch.zeros(2, 4, dtype=torch.int)])
    def test_no_pixel_of_a_class(self, mask) -> None:
        for threshold in (0.0, 0.9):
            found = remove_biased(mask, self.MAPS, self.CLASSES, threshold)
            assert found.dtype == mask.dtype and torch.equal(found, mask)

    def test_maps_are_enlarged(self) -> None:
        mask = torch.ones(2, 8, dtype=torch.uint8)
        maps = torch.tensor([[[0., 1.]]])
        # linear between the centres of the cells, x = 2 and 6: the half is at x = 4
        found = remove_biased(mask, maps, torch.tensor([1]), 0.5)
        assert found.tolist() == [[0] * 4 + [1] * 4] * 2

    def test_constant_map(self) -> None:
        mask = torch.ones(3, 3, dtype=torch.long)
        found = remove_biased(mask, torch.full((1, 2, 2), 0.7), torch.tensor([1]), 0.9)
        assert torch.equal(found, mask)

    @pytest.mark.parametrize(('arguments', 'message'), [
        ((MASK, MAPS, CLASSES, 1.0), 'threshold in'), ((MASK, MAPS, CLASSES, -0.1), '-0.1'),
        ((MASK[None], MAPS, CLASSES, 0.5), 'Expected mask'),
        ((MASK, MAPS, CLASSES[:1], 0.5), 'classes'),
    ])
    def test_errors(self, arguments, message) -> None:
        with pytest.raises(ValueError, match=message):
            remove_biased(*arguments)
