from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_dhr.ops import (
    Pooled,
    TransportSettings,
    average_similarity,
    class_correlation,
    correlation_groups,
    integrate_seeds,
    labels_from_scores,
    min_max_normalize,
    pooled_similarity,
    rebalance_uss,
    rebalance_wss,
    recover_seeds,
    transport_scores,
)

SETTINGS = TransportSettings(num_iters=300)


def _inside(maps: torch.Tensor) -> torch.Tensor:
    return torch.ones((maps.shape[0], *maps.shape[-2:]), dtype=torch.bool)


def _reference_transport(scores: np.ndarray) -> np.ndarray:
    """f_OT by POT, min-max normalised per class; (C, N)."""
    classes, pixels = scores.shape
    rows, columns = np.full(pixels, 1 / pixels), np.full(classes, 1 / classes)
    plan = ot.sinkhorn(rows, columns, 1 - scores.T, 0.1, method='sinkhorn_log',
                       numItermax=20000, stopThr=1e-13).T
    low, high = plan.min(1, keepdims=True), plan.max(1, keepdims=True)
    return (plan - low) / (high - low)


def _reference_cosine(features: np.ndarray, mask: np.ndarray, labels: list[int]) -> np.ndarray:
    """ReLU cosine with the mean feature of each label; mask at the features' resolution."""
    flat = features.reshape(len(features), -1)
    maps = []
    for label in labels:
        centre = flat[:, mask.ravel() == label].mean(1)
        maps.append(centre @ flat / np.linalg.norm(centre) / np.linalg.norm(flat, axis=0))
    return np.maximum(np.stack(maps), 0)


@pytest.fixture
def scene() -> dict:
    """Three classes on a 6x7 grid, features that lean towards their class."""
    rng = np.random.default_rng(3)
    mask = rng.integers(0, 3, (6, 7))
    labels = [0, 5, 9]
    uss = rng.normal(size=(8, 6, 7)) + np.eye(8)[mask].transpose(2, 0, 1) * 2
    wss = rng.normal(size=(5, 6, 7)) + np.eye(5)[mask].transpose(2, 0, 1) * 2
    return dict(mask=np.asarray(labels)[mask], labels=labels, uss=uss, wss=wss)


def _tensors(scene: dict) -> tuple[torch.Tensor, ...]:
    return (torch.as_tensor(scene['uss'])[None], torch.as_tensor(scene['mask'])[None],
            torch.tensor([scene['labels']]), torch.ones(1, 3, dtype=torch.bool))


def _uss(scene: dict, features: str = 'uss', labels: list[int] | None = None) -> Pooled:
    labels = labels or scene['labels']
    maps = torch.as_tensor(scene[features])[None]
    return pooled_similarity(maps, torch.as_tensor(scene['mask'])[None], torch.tensor([labels]),
                             torch.ones(1, len(labels), dtype=torch.bool), _inside(maps))


def _pooled(centroids: list, used: list[bool] | None = None) -> Pooled:
    tensor = torch.tensor([centroids])
    mask = torch.tensor([used or [True] * len(centroids)])
    return Pooled(torch.zeros(1, len(centroids), 1, 1), tensor, mask, mask.float(),
                  tensor.mean(1))


class TestStep1:

    def test_equals_pot_times_cam(self) -> None:
        cam = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(0))
        heat = recover_seeds(cam, torch.ones(1, 3, dtype=torch.bool), _inside(cam), SETTINGS)
        flat = cam[0].flatten(1).double().numpy()
        expected = _reference_transport(flat) * flat
        expected /= expected.max(1, keepdims=True)
        np.testing.assert_allclose(heat[0].flatten(1).numpy(), expected, atol=1e-3)

    def test_single_tag_keeps_its_cam(self) -> None:
        cam = torch.rand(1, 1, 4, 4)
        heat = recover_seeds(cam, torch.ones(1, 1, dtype=torch.bool), _inside(cam))
        torch.testing.assert_close(heat, cam / cam.max())

    def test_empty_cam_and_nan_stay_finite(self) -> None:
        cam = torch.zeros(1, 2, 4, 4)
        cam[0, 1, 0, 0] = float('nan')
        heat = recover_seeds(cam, torch.ones(1, 2, dtype=torch.bool), _inside(cam))
        assert torch.equal(heat, torch.zeros_like(heat))

    def test_integration_by_hand(self) -> None:
        base = torch.tensor([[[0, 1, 1, 255]]])
        seeds = torch.tensor([[[2, 2, 255, 1]]])
        classes = torch.tensor([[0, 1, 2]])
        only_two = integrate_seeds(base, seeds, torch.tensor([[False, False, True]]), classes)
        assert only_two.tolist() == [[[2, 2, 1, 255]]]
        both = integrate_seeds(base, seeds, torch.tensor([[False, True, True]]), classes)
        assert both.tolist() == [[[2, 2, 1, 1]]]
        none = integrate_seeds(base, seeds, torch.zeros(1, 3, dtype=torch.bool), classes)
        assert torch.equal(none, base)


class TestPooledSimilarity:

    def test_equals_reference(self, scene: dict) -> None:
        got = _uss(scene)
        expected = _reference_cosine(scene['uss'], scene['mask'], scene['labels'])
        np.testing.assert_allclose(got.similarity[0].numpy().reshape(3, -1), expected, atol=1e-5)
        np.testing.assert_allclose(got.mean[0].numpy(), scene['uss'].mean((1, 2)), atol=1e-5)
        counts = [(scene['mask'] == label).sum() for label in scene['labels']]
        np.testing.assert_allclose(got.area[0].numpy(), counts, rtol=1e-5)

    def test_majority_loses_what_dominates_no_cell(self) -> None:
        mask = torch.zeros(1, 8, 8, dtype=torch.long)
        mask[0, 3, 3] = 7
        features = torch.rand(1, 4, 2, 2)
        args = (mask, torch.tensor([[0, 7]]), torch.ones(1, 2).bool(), _inside(features))
        assert pooled_similarity(features, *args).class_mask.tolist() == [[True, True]]
        assert pooled_similarity(features, *args, 'majority').class_mask.tolist() == [[True, False]]
        with pytest.raises(ValueError, match='majority'):
            pooled_similarity(features, *args, 'vote')

    def test_class_in_the_rest_of_a_cell_has_a_centroid(self) -> None:
        """The middle of the last cell is padding; its first columns are the image's, and class 1
        is nowhere else."""
        init = torch.full((1, 4, 8), 255)
        init[:, :, :4], init[:, :, 4:5] = 0, 1
        inside = torch.tensor([[[True, False]]])
        got = pooled_similarity(torch.eye(2).view(1, 2, 1, 2), init, torch.tensor([[0, 1]]),
                                torch.ones(1, 2, dtype=torch.bool), inside)
        assert got.class_mask.tolist() == [[True, True]]
        assert got.centroids.tolist() == [[[1.0, 0.0], [0.0, 1.0]]]

    def test_levels_are_averaged(self, scene: dict) -> None:
        one, two = _uss(scene), _uss(scene, 'wss')
        got = average_similarity([one, two], (6, 7))
        torch.testing.assert_close(got, (one.similarity + two.similarity) / 2)


class TestStep2:

    def test_equals_reference(self, scene: dict) -> None:
        uss = _uss(scene)
        maps = rebalance_uss(uss, _inside(uss.similarity), SETTINGS)
        similarity = _reference_cosine(scene['uss'], scene['mask'], scene['labels'])
        expected = _reference_transport(similarity) * similarity
        np.testing.assert_allclose(maps[0].flatten(1).numpy(), expected, atol=2e-3)

    def test_class_without_a_pixel_is_left_out(self, scene: dict) -> None:
        scene['mask'] = np.where(scene['mask'] == 9, 255, scene['mask'])
        uss = _uss(scene)
        maps = rebalance_uss(uss, _inside(uss.similarity), SETTINGS)
        assert uss.class_mask.tolist() == [[True, True, False]]
        assert maps[0, 2].abs().max() == 0
        pair = _uss(scene, labels=scene['labels'][:2])
        torch.testing.assert_close(maps[:, :2], rebalance_uss(pair, _inside(maps), SETTINGS))

    def test_all_ignore_gives_zero(self, scene: dict) -> None:
        scene['mask'][:] = 255
        uss = _uss(scene)
        assert not uss.class_mask.any()
        assert rebalance_uss(uss, _inside(uss.similarity)).abs().max() == 0

    def test_padding_changes_nothing(self, scene: dict) -> None:
        features, mask, classes, used = _tensors(scene)
        uss = _uss(scene)
        expected = rebalance_uss(uss, _inside(features), SETTINGS)
        padded = F.pad(features, (0, 3, 0, 2), value=7.0)
        inside = F.pad(_inside(features), (0, 3, 0, 2), value=False)
        wide = pooled_similarity(padded, F.pad(mask, (0, 3, 0, 2), value=0), classes, used, inside)
        got = rebalance_uss(wide, inside, SETTINGS)
        torch.testing.assert_close(got[..., :6, :7], expected, atol=1e-5, rtol=1e-4)
        assert got[..., 6:, :].abs().max() == 0

    def test_without_transport_it_is_the_nearest_centroid(self, scene: dict) -> None:
        uss = _uss(scene)
        maps = rebalance_uss(uss, _inside(uss.similarity), TransportSettings(enabled=False))
        assert torch.equal(maps, uss.similarity)


class TestCorrelation:

    def test_by_hand(self) -> None:
        got = class_correlation(_pooled([[1.0, 0], [0.6, 0.8], [0, 2.0]], [True, True, False]))
        expected = torch.tensor([[[1, 0.6, 0], [0.6, 1, 0], [0, 0, 0]]])
        torch.testing.assert_close(got, expected)

    def test_centred_by_hand(self) -> None:
        # Without the common direction (9, 9) the two classes are opposite.
        got = class_correlation(_pooled([[10.0, 9], [8, 9]]), torch.tensor([9.0, 9.0]))
        torch.testing.assert_close(got, torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]]))

    # 0 - 1 and 1 - 3 correlate, 2 with nobody.
    CHAIN = torch.tensor([[[1, .9, 0, 0], [.9, 1, 0, .9], [0, 0, 1, 0], [0, .9, 0, 1]]])

    @pytest.mark.parametrize(('variant', 'expected'), [
        ('paper', [[1, 1, 0, 1]]),
        ('grouped', [[1, 1, 0, 0], [0, 1, 0, 1], [0] * 4, [0] * 4]),
        ('components', [[1, 1, 0, 1], [0] * 4, [0] * 4, [0] * 4]),
    ])
    def test_groups_by_hand(self, variant: str, expected: list) -> None:
        assert correlation_groups(self.CHAIN, 0.8, variant).int().tolist() == [expected]
        assert not correlation_groups(self.CHAIN, 1.0, variant).any()

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, 7), st.integers(0, 999), st.floats(-1, 1))
    def test_components_do_not_depend_on_the_order(self, count: int, seed: int,
                                                   tau: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.rand(1, count, count, generator=generator) * 2 - 1
        matrix = torch.maximum(matrix, matrix.transpose(1, 2))
        order = torch.randperm(count, generator=generator)

        def members(groups: torch.Tensor, names: list[int]) -> set[frozenset[int]]:
            found = {frozenset(names[i] for i in row.nonzero().flatten().tolist())
                     for row in groups[0]} - {frozenset()}
            assert sum(map(len, found)) == len(frozenset().union(*found))  # no class twice
            return found

        plain = members(correlation_groups(matrix, tau, 'components'), list(range(count)))
        shuffled = correlation_groups(matrix[:, order][:, :, order], tau, 'components')
        assert members(shuffled, order.tolist()) == plain

    def test_unknown_variant(self) -> None:
        with pytest.raises(ValueError, match='grouped'):
            correlation_groups(torch.ones(1, 2, 2), 0.8, 'groups')


class TestStep3:

    def test_paper_equals_reference_when_all_correlate(self, scene: dict) -> None:
        uss, wss = _uss(scene), _uss(scene, 'wss').similarity
        inside = _inside(wss)
        start = rebalance_uss(uss, inside, SETTINGS)
        groups = torch.ones(1, 1, 3, dtype=torch.bool)
        got = rebalance_wss(start, wss, groups, uss.class_mask, inside, 'paper', SETTINGS)
        factor = _reference_transport(
            _reference_cosine(scene['wss'], scene['mask'], scene['labels']))
        np.testing.assert_allclose(got[0].flatten(1).numpy(),
                                   factor * start[0].flatten(1).numpy(), atol=2e-3)

    def test_paper_leaves_uncorrelated_classes_alone(self, scene: dict) -> None:
        uss, wss = _uss(scene), _uss(scene, 'wss').similarity
        groups = torch.tensor([[[True, False, True]]])
        got = rebalance_wss(uss.similarity, wss, groups, uss.class_mask, _inside(wss))
        assert torch.equal(got[:, 1], uss.similarity[:, 1])
        assert not torch.equal(got[:, 0], uss.similarity[:, 0])

    def test_groups_equal_reference(self, scene: dict) -> None:
        uss, wss = _uss(scene), _uss(scene, 'wss').similarity
        groups = torch.tensor([[[True, False, True], [False, False, False]]])
        got = rebalance_wss(uss.similarity, wss, groups, uss.class_mask, _inside(wss), 'components',
                            SETTINGS)

        def scaled(maps: np.ndarray) -> np.ndarray:
            low, high = maps.min(1, keepdims=True), maps.max(1, keepdims=True)
            return (maps - low) / (high - low)

        expected, other = (scaled(maps[0].flatten(1).double().numpy())
                           for maps in (uss.similarity, wss))
        expected[[0, 2]] *= _reference_transport(other[[0, 2]])
        expected = scaled(expected * _reference_transport(expected))
        np.testing.assert_allclose(got[0].flatten(1).numpy(), expected, atol=3e-3)

    def test_groups_that_overlap_equal_one_after_the_other(self, scene: dict) -> None:
        uss, wss = _uss(scene), _uss(scene, 'wss').similarity
        inside = _inside(wss)
        groups = torch.tensor([[[True, True, False], [False, True, True], [False] * 3]])
        mass = torch.tensor([[0.5, 0.3, 0.2]])
        got = rebalance_wss(uss.similarity, wss, groups, uss.class_mask, inside, 'grouped',
                            marginal=mass)
        flat = inside.flatten(1)
        maps = min_max_normalize(uss.similarity.flatten(2), flat)
        other = min_max_normalize(wss.flatten(2), flat)
        for first in (0, 1):
            pair = [first, first + 1]
            maps[:, pair] *= transport_scores(other[:, pair], class_marginal=mass[:, pair])
        maps = maps * transport_scores(maps, class_marginal=mass)
        torch.testing.assert_close(got.flatten(2), min_max_normalize(maps, flat), atol=1e-5,
                                   rtol=1e-4)

    @pytest.mark.parametrize('variant', ['paper', 'grouped', 'components'])
    def test_one_class_and_constant_maps_are_finite(self, variant: str) -> None:
        maps = torch.ones(2, 2, 3, 3)
        used = torch.tensor([[True, False], [True, True]])
        groups = correlation_groups(torch.ones(2, 2, 2) * used[:, None] * used[:, :, None], 0.5,
                                    variant)
        got = rebalance_wss(maps * used[:, :, None, None], maps, groups, used, _inside(maps),
                            variant)
        assert torch.isfinite(got).all() and got.min() >= 0 and got.max() <= 1


class TestLabels:

    def test_by_hand(self) -> None:
        scores = torch.tensor([[[[0.1, 0.9, 0.0, 0.5]], [[0.3, 0.2, 0.0, 0.1]]]])
        inside = torch.tensor([[[True, True, True, False]]])
        got = labels_from_scores(scores, torch.tensor([[0, 7]]), torch.ones(1, 2).bool(), inside)
        assert got.tolist() == [[[7, 0, 255, 255]]]

    def test_unused_channel_never_wins(self) -> None:
        scores = torch.tensor([[[[0.1]], [[0.9]]]])
        got = labels_from_scores(scores, torch.tensor([[3, -1]]), torch.tensor([[True, False]]),
                                 torch.ones(1, 1, 1).bool())
        assert got.tolist() == [[[3]]]


def test_bfloat16_autocast_changes_nothing(scene: dict) -> None:
    expected = rebalance_uss(_uss(scene), _inside(_uss(scene).similarity))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = rebalance_uss(_uss(scene), _inside(_uss(scene).similarity))
        correlation = class_correlation(_uss(scene))
    torch.testing.assert_close(got, expected)
    assert torch.equal(correlation, class_correlation(_uss(scene)))
