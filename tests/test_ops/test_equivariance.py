from __future__ import annotations

import numpy as np
import pytest
import torch

from mmseg_dhr.ops import (
    cam_scores,
    cross_equivariance_loss,
    equivariance_loss,
    pixel_correlation,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def pcm_by_hand(maps: np.ndarray, features: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(K, h, w) of one image, cell by cell."""
    out = np.zeros_like(maps)
    cells = list(np.ndindex(maps.shape[1:]))
    for i in cells:
        total = 0.0
        for j in cells:
            x, y = features[:, i[0], i[1]], features[:, j[0], j[1]]
            weight = max(0.0, x @ y / np.linalg.norm(x) / np.linalg.norm(y)) * inside[j]
            out[:, i[0], i[1]] += weight * maps[:, j[0], j[1]]
            total += weight
        out[:, i[0], i[1]] /= max(total, 1e-5)
    return out


@pytest.mark.parametrize(('count', 'dtype'), [(1, torch.float32), (3, torch.float32),
                                              (2, torch.bfloat16), (2, torch.float16)])
def test_pcm_by_hand(rng, count, dtype) -> None:
    maps = torch.tensor(rng.random((2, count, 3, 5))).to(dtype)
    features = torch.tensor(rng.normal(size=(2, 4, 3, 5))).to(dtype)
    inside = torch.tensor(rng.random((2, 3, 5)) > 0.3)
    found = pixel_correlation(maps, features, inside)
    assert found.dtype == torch.float32
    for row in range(2):
        expected = pcm_by_hand(maps[row].double().numpy(), features[row].double().numpy(),
                               inside[row].numpy())
        np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-5)
    whole = pixel_correlation(maps, features)
    np.testing.assert_allclose(
        whole[0].numpy(), pcm_by_hand(maps[0].double().numpy(), features[0].double().numpy(),
                                      np.ones((3, 5))), atol=1e-5)


def test_pcm_without_class_and_without_valid_cell() -> None:
    features = torch.randn(1, 4, 2, 3)
    assert pixel_correlation(torch.zeros(1, 0, 2, 3), features).shape == (1, 0, 2, 3)
    nowhere = torch.zeros(1, 2, 3, dtype=torch.bool)
    assert pixel_correlation(torch.ones(1, 2, 2, 3), features, nowhere).abs().max() == 0
    assert pixel_correlation(torch.ones(1, 2, 2, 3), features * 0).isfinite().all()


def test_pcm_needs_one_grid() -> None:
    with pytest.raises(ValueError, match='one grid'):
        pixel_correlation(torch.ones(1, 2, 2, 3), torch.ones(1, 2, 3, 2))


def test_scores_by_hand() -> None:
    maps = torch.tensor([[[[-1.0, 2.0, 9.0]], [[3.0, 1.0, 9.0]], [[5.0, 5.0, 5.0]]]])
    tags = torch.tensor([[1.0, 1.0, 0.0]])
    inside = torch.tensor([[[True, True, False]]])
    expected = [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1 / 3, 0.0], [0.0, 0.0, 0.0]]
    torch.testing.assert_close(cam_scores(maps, tags, inside)[0, :, 0], torch.tensor(expected))


def test_scores_without_tag_are_background() -> None:
    scores = cam_scores(torch.randn(1, 2, 3, 3), torch.zeros(1, 2))
    assert (scores[:, 0] == 1).all() and (scores[:, 1:] == 0).all()


def test_er_by_hand(rng) -> None:
    a, b = rng.random((2, 2, 3, 4, 5))
    inside = rng.random((2, 4, 5)) > 0.4
    total = [abs(a[n, c, y, x] - b[n, c, y, x]) for n, c, y, x in np.ndindex(a.shape)
             if inside[n, y, x]]
    found = equivariance_loss(torch.tensor(a), torch.tensor(b), torch.tensor(inside))
    assert found.item() == pytest.approx(np.mean(total))
    assert equivariance_loss(torch.tensor(a), torch.tensor(b)).item() == pytest.approx(
        np.abs(a - b).mean())


@pytest.mark.parametrize('hard', [0.2, 0.5, 1.0])
def test_ecr_by_hand(rng, hard) -> None:
    scores, refined, moved, moved_refined = rng.random((4, 2, 3, 4, 5))
    inside = rng.random((2, 4, 5)) > 0.4
    expected = 0.0
    for errors in (np.abs(refined - moved), np.abs(scores - moved_refined)):
        counted = np.sort(errors.transpose(1, 0, 2, 3)[:, inside].ravel())[::-1]
        expected += counted[:int(hard * len(counted))].mean()
    arguments = map(torch.tensor, (scores, refined, moved, moved_refined, inside))
    assert cross_equivariance_loss(*arguments, hard=hard).item() == pytest.approx(expected)


def test_ecr_of_one_cell_and_bad_share() -> None:
    one = [torch.full((1, 1, 1, 1), value) for value in (0.1, 0.2, 0.5, 0.9)]
    assert cross_equivariance_loss(*one).item() == pytest.approx(0.3 + 0.8)
    with pytest.raises(ValueError, match='hard'):
        cross_equivariance_loss(*one, hard=0.0)


def test_gradient_pulls_the_scores_together() -> None:
    maps = torch.randn(2, 3, 4, 4, requires_grad=True)
    tags = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    equivariance_loss(cam_scores(maps, tags), cam_scores(torch.randn(2, 3, 4, 4), tags)).backward()
    assert maps.grad is not None and maps.grad.isfinite().all()
    shown = maps.grad.abs().amax((2, 3)) > 0
    assert torch.equal(shown, tags.bool())
