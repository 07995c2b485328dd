"""RETAB's two-stage propagation against its equations, written out densely."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from mmseg_dhr.ops import neighbour_offsets, random_walk, two_stage_walk

OFFSETS = neighbour_offsets(5)


def _rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _dense_affinity(affinity: np.ndarray, height: int, width: int) -> np.ndarray:
    dense = np.zeros((height * width, height * width))
    for k, (dy, dx) in enumerate(OFFSETS):
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    i, j = y * width + x, (y + dy) * width + x + dx
                    dense[i, j] = dense[j, i] = affinity[k, y, x]
    return dense


def _reference(scores: np.ndarray, affinity: np.ndarray, boundary: np.ndarray, beta: float,
               steps: int) -> np.ndarray:
    """Eqs. 2 and 3 for one image, in float64."""
    classes, height, width = scores.shape
    a = _dense_affinity(affinity, height, width)
    bd = boundary.ravel()
    first = np.where(~bd[:, None] & ~bd[None], a, 0)
    second = np.where(bd[None], a, 0)  # j, the column, lies on the boundary
    walked = scores.reshape(classes, -1)
    for matrix in (first, second):
        np.fill_diagonal(matrix, 1)
        transition = matrix**beta / (matrix**beta).sum(0)
        walked = walked @ np.linalg.matrix_power(transition, steps)
    return walked.reshape(scores.shape)


@pytest.mark.parametrize('size', [(9, 11), (1, 12), (6, 2), (1, 1)])
@pytest.mark.parametrize(('beta', 'steps'), [(8.0, 16), (2.0, 3), (1.0, 0)])
def test_equals_the_equations(size, beta, steps):
    scores, affinity = _rand(3, 4, *size), _rand(3, 34, *size, seed=1)
    boundary = _rand(3, *size, seed=2) < 0.3
    boundary[1], boundary[2] = False, True  # no boundary at all, nothing else
    got = two_stage_walk(scores, affinity, OFFSETS, boundary, beta, steps)
    assert got.shape == scores.shape
    for i in range(3):
        expected = _reference(scores[i].double().numpy(), affinity[i].double().numpy(),
                              boundary[i].numpy(), beta, steps)
        np.testing.assert_allclose(got[i].numpy(), expected, atol=1e-5)


def test_second_stage_leaves_the_others_alone():
    scores, affinity = _rand(2, 3, 12, 10), _rand(2, 34, 12, 10, seed=1)
    boundary = _rand(2, 12, 10, seed=2) < 0.4
    first = random_walk(scores, affinity, OFFSETS, pixel_mask=~boundary)
    got = two_stage_walk(scores, affinity, OFFSETS, boundary)
    kept = (~boundary)[:, None].expand_as(got)
    assert torch.equal(got[kept], first[kept])
    assert not torch.equal(got[~kept], scores[~kept])


def test_without_boundary_it_is_the_plain_walk():
    scores, affinity = _rand(1, 2, 8, 9), _rand(1, 34, 8, 9, seed=1)
    nowhere = torch.zeros(1, 8, 9, dtype=torch.bool)
    assert torch.equal(two_stage_walk(scores, affinity, OFFSETS, nowhere),
                       random_walk(scores, affinity, OFFSETS))


def test_a_closed_boundary_isolates():
    """What is inside a ring, five pixels thick as the radius asks, stays inside in stage 1."""
    inner = torch.zeros(1, 17, 17, dtype=torch.bool)
    inner[:, 7:10, 7:10] = True
    ring = torch.zeros_like(inner)
    ring[:, 2:15, 2:15] = True
    ring &= ~inner
    scores = torch.stack([inner, ~inner], 1).float()
    got = two_stage_walk(scores, torch.ones(1, 34, 17, 17), OFFSETS, ring, num_steps=64)
    assert (got[0, 1][inner[0]] == 0).all()
    outside = ~inner[0] & ~ring[0]
    assert (got[0, 0][outside] == 0).all()
    assert torch.allclose(got.sum(1), torch.ones(1, 17, 17))
    assert ((got[0, 0] > 0) & (got[0, 0] < 1))[ring[0]].any()


def test_padding_and_nan():
    scores, affinity = _rand(1, 2, 8, 9), _rand(1, 34, 8, 9, seed=1)
    boundary = _rand(1, 8, 9, seed=2) < 0.3
    small = two_stage_walk(scores[..., :7], affinity[..., :7], OFFSETS, boundary[..., :7])
    mask = torch.zeros(1, 8, 9, dtype=torch.bool)
    mask[..., :7] = True
    scores[..., 7:] = float('nan')
    padded = two_stage_walk(scores, affinity, OFFSETS, boundary, pixel_mask=mask)
    assert torch.allclose(padded[..., :7], small, atol=1e-6) and not padded[..., 7:].any()


def test_shapes_are_checked():
    scores, affinity = _rand(1, 2, 4, 5), _rand(1, 34, 4, 5)
    with pytest.raises(ValueError, match=r'boundary of shape \(1, 4, 5\), but got \(1, 4, 4\)'):
        two_stage_walk(scores, affinity, OFFSETS, torch.zeros(1, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r'receivers of shape \(1, 4, 5\), but got \(4, 5\)'):
        random_walk(scores, affinity, OFFSETS, receivers=torch.ones(4, 5, dtype=torch.bool))
