from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
import torch.nn.functional as F

from mmseg_dhr.ops import (
    TransportSettings,
    class_marginal,
    correlated_classes,
    integrate_seeds,
    labels_from_scores,
    rebalance_uss,
    rebalance_wss,
    recover_seeds,
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


class TestStep2:

    def test_equals_reference(self, scene: dict) -> None:
        features, mask, classes, used = _tensors(scene)
        result = rebalance_uss(features, mask, classes, used, _inside(features), SETTINGS)
        similarity = _reference_cosine(scene['uss'], scene['mask'], scene['labels'])
        expected = _reference_transport(similarity.reshape(3, -1)) * similarity.reshape(3, -1)
        np.testing.assert_allclose(result.maps[0].flatten(1).numpy(), expected, atol=2e-3)

    def test_class_without_a_pixel_is_left_out(self, scene: dict) -> None:
        features, mask, classes, used = _tensors(scene)
        mask = mask.masked_fill(mask == 9, 255)
        result = rebalance_uss(features, mask, classes, used, _inside(features), SETTINGS)
        assert result.class_mask.tolist() == [[True, True, False]]
        assert result.maps[0, 2].abs().max() == 0
        pair = rebalance_uss(features, mask, classes[:, :2], used[:, :2], _inside(features),
                             SETTINGS)
        torch.testing.assert_close(result.maps[:, :2], pair.maps)

    def test_all_ignore_gives_zero(self, scene: dict) -> None:
        features, mask, classes, used = _tensors(scene)
        result = rebalance_uss(features, torch.full_like(mask, 255), classes, used,
                               _inside(features))
        assert not result.class_mask.any()
        assert result.maps.abs().max() == 0

    def test_padding_changes_nothing(self, scene: dict) -> None:
        features, mask, classes, used = _tensors(scene)
        expected = rebalance_uss(features, mask, classes, used, _inside(features), SETTINGS)
        padded = F.pad(features, (0, 3, 0, 2), value=7.0)
        inside = F.pad(_inside(features), (0, 3, 0, 2), value=False)
        got = rebalance_uss(padded, F.pad(mask, (0, 3, 0, 2), value=0), classes, used, inside,
                            SETTINGS)
        torch.testing.assert_close(got.maps[..., :6, :7], expected.maps, atol=1e-5, rtol=1e-4)
        assert got.maps[..., 6:, :].abs().max() == 0

    @pytest.mark.parametrize('kind', ['area', 'sqrt_area'])
    def test_marginal_moves_mass_to_the_large_class(self, scene: dict, kind: str) -> None:
        features, mask, classes, used = _tensors(scene)
        mask = torch.where(torch.rand(mask.shape, generator=torch.Generator().manual_seed(0)) < 0.7,
                           torch.zeros_like(mask), mask)
        shares = []
        for marginal in ('uniform', kind):
            result = rebalance_uss(features, mask, classes, used, _inside(features),
                                   SETTINGS._replace(marginal=marginal))
            labels = labels_from_scores(result.maps, classes, used, _inside(features))
            shares.append((labels == 0).float().mean())
        assert shares[1] > shares[0]

    def test_unknown_marginal(self) -> None:
        with pytest.raises(ValueError, match='uniform'):
            class_marginal(torch.ones(1, 2), 'true')


class TestStep3:

    def test_equals_reference_when_all_correlate(self, scene: dict) -> None:
        features, mask, classes, used = _tensors(scene)
        uss = rebalance_uss(features, mask, classes, used, _inside(features), SETTINGS)
        wss = torch.as_tensor(scene['wss'])[None]
        got = rebalance_wss(uss, [wss], mask, classes, [_inside(wss)] * 2, -1.0, SETTINGS)
        similarity = _reference_cosine(scene['wss'], scene['mask'], scene['labels'])
        factor = _reference_transport(similarity.reshape(3, -1))
        np.testing.assert_allclose(got[0].flatten(1).numpy(),
                                   factor * uss.maps[0].flatten(1).numpy(), atol=2e-3)

    def test_uncorrelated_classes_keep_their_uss_map(self, scene: dict) -> None:
        features, mask, classes, used = _tensors(scene)
        uss = rebalance_uss(features, mask, classes, used, _inside(features))
        wss = torch.as_tensor(scene['wss'])[None]
        got = rebalance_wss(uss, [wss], mask, classes, [_inside(wss)] * 2, tau=1.0)
        assert torch.equal(got, uss.maps)

    def test_levels_are_averaged(self, scene: dict) -> None:
        features, mask, classes, used = _tensors(scene)
        uss = rebalance_uss(features, mask, classes, used, _inside(features))
        wss = torch.as_tensor(scene['wss'])[None]
        once = rebalance_wss(uss, [wss], mask, classes, [_inside(wss)] * 2, -1.0)
        twice = rebalance_wss(uss, [wss, wss], mask, classes, [_inside(wss)] * 3, -1.0)
        torch.testing.assert_close(once, twice)

    def test_mask_count_error(self, scene: dict) -> None:
        features, mask, classes, used = _tensors(scene)
        uss = rebalance_uss(features, mask, classes, used, _inside(features))
        with pytest.raises(ValueError, match='one pixel mask per level'):
            rebalance_wss(uss, [features], mask, classes, [_inside(features)])

    def test_correlated_pairs_by_hand(self) -> None:
        centroids = torch.tensor([[[1.0, 0, 0], [0.9, 0.1, 0], [0, 0, 1], [0, 0.1, 1]]])
        used = torch.tensor([[True, True, True, False]])
        assert correlated_classes(centroids, used, 0.8).tolist() == [[True, True, False, False]]
        assert not correlated_classes(centroids, used, 1.0).any()


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
    features, mask, classes, used = _tensors(scene)
    expected = rebalance_uss(features, mask, classes, used, _inside(features))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = rebalance_uss(features, mask, classes, used, _inside(features))
    torch.testing.assert_close(got.maps, expected.maps)
