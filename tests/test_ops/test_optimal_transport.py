from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_dhr.ops import min_max_normalize, sinkhorn, transport_scores


def _scores(classes: int, pixels: int, seed: int = 0, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, classes, pixels, generator=torch.Generator().manual_seed(seed))


def _updates(scores: np.ndarray, reg: float, share: np.ndarray, count: int,
             damping: float = 1.0) -> np.ndarray:
    """So many plain Sinkhorn updates in float64, then the plan times the number of pixels."""
    potential = np.zeros((len(scores), 1))
    for step in range(count + 1):
        weights = np.exp((scores - scores.max(0)) / reg + potential)
        plan = weights / weights.sum(0)
        if step < count:
            potential += np.log(share / plan.mean(1))[:, None]
            potential *= damping
    return plan


def _pot(scores: np.ndarray, reg: float, marginal: np.ndarray) -> np.ndarray:
    """POT's plan, float64, (C, N)."""
    pixels = np.full(scores.shape[1], 1 / scores.shape[1])
    plan = ot.sinkhorn(pixels, marginal, 1 - scores.T, reg, method='sinkhorn_log', numItermax=20000,
                       stopThr=1e-13)
    return plan.T


class TestSinkhorn:

    @pytest.mark.parametrize('classes', [2, 3, 7])
    @pytest.mark.parametrize('reg', [0.05, 0.1, 1.0])
    def test_equals_pot(self, classes: int, reg: float) -> None:
        scores = _scores(classes, 143, seed=classes)
        plan = sinkhorn(scores, reg, num_iters=300)[0].numpy()
        expected = _pot(scores[0].double().numpy(), reg, np.full(classes, 1 / classes))
        # The plan is of the order 1 / (N C): compare at that scale.
        np.testing.assert_allclose(plan * plan.size, expected * plan.size, atol=1e-4)
        np.testing.assert_allclose(plan, expected, atol=1e-5)

    def test_given_marginal_equals_pot(self) -> None:
        scores, share = _scores(4, 90), np.array([0.7, 0.2, 0.09, 0.01])
        plan = sinkhorn(scores, 0.1, torch.as_tensor(share)[None] * 12, num_iters=400)[0].numpy()
        np.testing.assert_allclose(plan, _pot(scores[0].double().numpy(), 0.1, share), atol=1e-5)

    @pytest.mark.parametrize('relax', [0.02, 0.1, 1.0])
    def test_relaxed_equals_pot(self, relax: float) -> None:
        scores, share = _scores(4, 90, seed=5), np.array([0.7, 0.2, 0.09, 0.01])
        pixels = np.full(90, 1 / 90)
        expected = ot.unbalanced.sinkhorn_unbalanced(
            pixels, share, 1 - scores[0].double().numpy().T, 0.1, (float('inf'), relax),
            reg_type='entropy', numItermax=20000, stopThr=1e-13).T
        plan = sinkhorn(scores, 0.1, torch.as_tensor(share)[None], num_iters=400, relax=relax)
        np.testing.assert_allclose(plan[0].numpy() * 90, expected * 90, atol=1e-4)

    @pytest.mark.parametrize('reg', [0.1, 0.05, 0.01, 0.005])
    @pytest.mark.parametrize('low', [0.0, -0.7])
    def test_converges_by_default(self, reg: float, low: float) -> None:
        scores = _scores(3, 61, seed=4) * (1 - 2 * low) + low  # in [0, 1] and in [-0.7, 1.7]
        scores[:, 2] -= 0.3  # a class that is weak everywhere
        share = np.array([0.5, 0.3, 0.2])
        plan = sinkhorn(scores, reg, torch.as_tensor(share)[None])[0].numpy()
        expected = _pot(scores[0].double().numpy(), reg, share)
        np.testing.assert_allclose(plan * 61, expected * 61, atol=1e-5)

    @settings(max_examples=40, deadline=None)
    @given(st.integers(2, 8), st.integers(1, 90), st.floats(-2, 0.5), st.integers(0, 1000),
           st.sampled_from([None, 0.01, 0.1, 10.0]))
    def test_law_masses_are_met(self, classes: int, pixels: int, log_reg: float, seed: int,
                                relax: float | None) -> None:
        """The converged plan is a shifted softmax that gives each class what it should get."""
        scores, reg = _scores(classes, pixels, seed), 10**log_reg
        share = torch.rand(1, classes, generator=torch.Generator().manual_seed(seed)) + 0.02
        share = (share / share.sum()).double()
        plan = sinkhorn(scores, reg, share, relax=relax).double()
        torch.testing.assert_close(plan.sum(1), torch.full((1, pixels), 1 / pixels).double())
        wanted = share
        if relax is not None:  # share * exp(-g reg / relax), with g read off the plan
            ties = plan.clamp_min(1e-300).log() - scores.double() / reg
            best = plan.argmax(2, keepdim=True)
            pivot = (ties - ties[:, :1]).gather(2, best)[..., 0]
            wanted = share * (-pivot * reg / relax).exp()
            wanted = wanted / wanted.sum()
        if relax is None or plan.amin() > 1e-20:
            torch.testing.assert_close(plan.sum(2), wanted, atol=1e-5, rtol=1e-4)

    def test_a_class_of_no_mass_leaves_the_others(self) -> None:
        scores = _scores(3, 50)
        share = torch.tensor([[0.6, 0.4, 0.0]])
        plan = sinkhorn(scores, 0.1, share)
        torch.testing.assert_close(plan[:, :2], sinkhorn(scores[:, :2], 0.1, share[:, :2]))
        assert plan[:, 2].max() < 1e-20
        zero = torch.zeros(1, 3)
        torch.testing.assert_close(sinkhorn(scores, 0.1, zero), sinkhorn(scores))

    @pytest.mark.parametrize('count', [0, 1, 2, 5, 20, 35])
    @pytest.mark.parametrize('reg', [0.1, 0.01])
    @pytest.mark.parametrize('relax', [None, 0.1])
    def test_early_stop_equals_plain_updates(self, count: int, reg: float,
                                             relax: float | None) -> None:
        scores, share = _scores(4, 80, seed=count), np.array([0.4, 0.3, 0.2, 0.1])
        damping = 1.0 if relax is None else relax / (relax + reg)
        expected = _updates(scores[0].double().numpy(), reg, share, count, damping)
        plan = sinkhorn(scores, reg, torch.as_tensor(share)[None], num_iters=count, relax=relax)
        np.testing.assert_allclose(plan[0].numpy() * 80, expected, atol=1e-5)

    def test_no_class_dimension(self) -> None:
        assert transport_scores(torch.rand(2, 0, 7)).shape == (2, 0, 7)

    def test_infinite_scores_and_padding_stay_out(self) -> None:
        scores = _scores(3, 30)
        scores[0, 1, 3], scores[0, 2, 4] = float('inf'), float('-inf')
        scores[0, :, 25:] = float('nan')
        inside = torch.arange(30)[None] < 25
        plan = sinkhorn(scores, pixel_mask=inside)
        assert torch.isfinite(plan).all() and plan[..., 25:].abs().max() == 0
        assert plan[0, 1, 3] == pytest.approx(1 / 25) and plan[0, 2, 4] == 0
        torch.testing.assert_close(plan.sum(2), torch.full((1, 3), 1 / 3))

    def test_relaxed_ends(self) -> None:
        scores, share = _scores(3, 40), torch.tensor([[0.6, 0.3, 0.1]])
        hard = sinkhorn(scores, 0.1, share, num_iters=300)
        torch.testing.assert_close(
            sinkhorn(scores, 0.1, share, num_iters=300, relax=float('inf')), hard)
        near = sinkhorn(scores, 0.1, share, relax=1e3)
        torch.testing.assert_close(near, hard, atol=1e-5, rtol=1e-2)
        free = sinkhorn(scores, 0.1, share, relax=0.0)
        torch.testing.assert_close(free, (scores / 0.1).softmax(1) / 40)
        with pytest.raises(ValueError, match='relax'):
            sinkhorn(scores, relax=-1.0)

    def test_batch_of_different_sizes_equals_one_by_one(self) -> None:
        counts = [(2, 50), (4, 31), (1, 77), (3, 80)]
        batch = torch.rand(4, 4, 80, generator=torch.Generator().manual_seed(1)) * 5
        class_mask = torch.zeros(4, 4, dtype=torch.bool)
        pixel_mask = torch.zeros(4, 80, dtype=torch.bool)
        for i, (classes, pixels) in enumerate(counts):
            class_mask[i, :classes] = True
            pixel_mask[i, :pixels] = True
        plan = sinkhorn(batch, class_mask=class_mask, pixel_mask=pixel_mask)
        for i, (classes, pixels) in enumerate(counts):
            alone = sinkhorn(batch[i:i + 1, :classes, :pixels])
            torch.testing.assert_close(plan[i:i + 1, :classes, :pixels], alone)
            assert plan[i].sum() == pytest.approx(1, abs=1e-5)
        assert plan[~class_mask].abs().max() == 0

    def test_large_costs_keep_their_mass(self) -> None:
        # In the plain domain exp(-cost / reg) underflows float32 here.
        scores = _scores(3, 64) * -100
        plan = sinkhorn(scores, 0.1, num_iters=2000)
        torch.testing.assert_close(plan.sum(2), torch.full((1, 3), 1 / 3), atol=1e-3, rtol=0)
        plan = sinkhorn(scores, 0.1)
        torch.testing.assert_close(plan.sum(2), torch.full((1, 3), 1 / 3), atol=1e-6, rtol=0)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(2, 6), st.integers(2, 60), st.integers(0, 1000))
    def test_law_plan_is_a_shifted_softmax(self, classes: int, pixels: int, seed: int) -> None:
        """T_ij = softmax_j(S_ij / reg + g_j) / N with every class receiving its mass."""
        scores = _scores(classes, pixels, seed)
        plan = sinkhorn(scores, 0.1, num_iters=500)
        torch.testing.assert_close(plan.sum(1), torch.full((1, pixels), 1 / pixels))
        torch.testing.assert_close(plan.sum(2), torch.full((1, classes), 1 / classes), atol=1e-3,
                                   rtol=0)
        shift = (plan.clamp_min(1e-30).log() - scores / 0.1)
        shift = shift - shift[:, :1]
        torch.testing.assert_close(shift.amax(2), shift.amin(2), atol=1e-2, rtol=1e-3)

    def test_class_order_does_not_matter(self) -> None:
        scores, order = _scores(5, 40), torch.tensor([3, 0, 4, 1, 2])
        torch.testing.assert_close(sinkhorn(scores[:, order]), sinkhorn(scores)[:, order])

    def test_one_class_is_constant_and_none_is_zero(self) -> None:
        plan = sinkhorn(_scores(1, 10))
        torch.testing.assert_close(plan, torch.full((1, 1, 10), 0.1))
        empty = sinkhorn(_scores(2, 10), class_mask=torch.zeros(1, 2, dtype=torch.bool))
        assert torch.equal(empty, torch.zeros(1, 2, 10))

    def test_no_valid_pixel_gives_zero(self) -> None:
        plan = sinkhorn(_scores(2, 10), pixel_mask=torch.zeros(1, 10, dtype=torch.bool))
        assert torch.equal(plan, torch.zeros(1, 2, 10))

    def test_nan_is_no_evidence(self) -> None:
        scores = _scores(3, 20)
        scores[0, 1, 4] = float('nan')
        plan = sinkhorn(scores)
        assert torch.isfinite(plan).all()
        torch.testing.assert_close(plan, sinkhorn(torch.nan_to_num(scores)))

    def test_float32_under_bfloat16_autocast(self) -> None:
        scores = _scores(3, 50)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            plan = sinkhorn(scores)
        assert plan.dtype == torch.float32
        torch.testing.assert_close(plan, sinkhorn(scores))

    @pytest.mark.parametrize(('kwargs', 'message'), [
        (dict(scores=torch.rand(3, 4)), r'\(B, C, N\)'),
        (dict(scores=torch.rand(1, 3, 4), reg=0.0), 'reg to be positive'),
        (dict(scores=torch.rand(1, 3, 4), num_iters=-1), 'num_iters'),
        (dict(scores=torch.rand(1, 3, 4), class_mask=torch.ones(1, 2)), 'class_mask'),
        (dict(scores=torch.rand(1, 3, 4), pixel_mask=torch.ones(1, 5)), 'pixel_mask'),
        (dict(scores=torch.rand(1, 3, 4), class_marginal=torch.ones(1, 2)), 'class_marginal'),
    ])
    def test_errors(self, kwargs: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            sinkhorn(**kwargs)


class TestTransportScores:

    def test_is_the_min_max_of_the_plan(self) -> None:
        scores = _scores(3, 30)
        plan = sinkhorn(scores).numpy()
        low, high = plan.min(2, keepdims=True), plan.max(2, keepdims=True)
        np.testing.assert_allclose(transport_scores(scores).numpy(), (plan - low) / (high - low),
                                   rtol=1e-4, atol=1e-6)

    def test_single_class_is_bypassed(self) -> None:
        scores = _scores(2, 12, batch=2)
        class_mask = torch.tensor([[True, False], [True, True]])
        factor = transport_scores(scores, class_mask=class_mask)
        assert torch.equal(factor[0], torch.tensor([[1.0] * 12, [0.0] * 12]))
        assert factor[1].amax(1).tolist() == [1.0, 1.0]

    def test_constant_maps_are_finite(self) -> None:
        factor = transport_scores(torch.full((1, 3, 9), 0.5))
        assert torch.equal(factor, torch.zeros(1, 3, 9))

    def test_raises_a_minor_class(self) -> None:
        """A weak but distinct class wins its pixels once every class has the same mass."""
        scores = torch.zeros(1, 2, 100)
        scores[0, 0] = 0.8
        scores[0, 1, :5] = 0.6
        assert (scores[0, 1] > scores[0, 0]).sum() == 0
        plan = sinkhorn(scores)
        assert (plan[0, 1] > plan[0, 0])[:5].all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_min_max_of_a_constant_half_map(dtype: torch.dtype) -> None:
    scaled = min_max_normalize(torch.zeros(1, 2, 5, dtype=dtype))
    assert scaled.dtype == dtype and scaled.eq(0).all()


def test_min_max_ignores_padding() -> None:
    maps = torch.tensor([[[1.0, 3.0, 100.0]]])
    mask = torch.tensor([[True, True, False]])
    assert min_max_normalize(maps, mask).tolist() == [[[0.0, 1.0, 0.0]]]


def test_raw_plan_is_the_share_of_each_pixel() -> None:
    scores = _scores(3, 40)
    inside = torch.arange(40)[None] < 30
    raw = transport_scores(scores, pixel_mask=inside, plan='raw')
    torch.testing.assert_close(raw, sinkhorn(scores, pixel_mask=inside) * 30)
    torch.testing.assert_close(raw.sum(1)[0, :30], torch.ones(30))
    with pytest.raises(ValueError, match='min_max'):
        transport_scores(scores, plan='log')
