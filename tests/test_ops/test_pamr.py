from __future__ import annotations

import numpy as np
import torch

from mmseg_dhr.ops import pamr


def _reference(image: np.ndarray, scores: np.ndarray, inside: np.ndarray, num_iters: int,
               dilations: tuple[int, ...]) -> np.ndarray:
    """Pixel by pixel, from the text of the paper."""
    height, width = inside.shape
    rings = [(d * y, d * x) for d in dilations for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
    scores = scores * inside
    for _ in range(num_iters):
        result = np.zeros_like(scores)
        for y, x in zip(*np.nonzero(inside), strict=True):
            around = [(y + dy, x + dx) for dy, dx in rings
                      if 0 <= y + dy < height and 0 <= x + dx < width and inside[y + dy, x + dx]]
            colours = np.stack([image[:, v, u] for v, u in around]) / 255
            distance = np.abs(colours - image[:, y, x] / 255) / np.maximum(colours.var(0), 1e-6)
            weights = np.exp(-(distance.mean(1) - distance.mean(1).min()))
            values = np.stack([scores[:, v, u] for v, u in around])
            result[:, y, x] = (weights[:, None] * values).sum(0) / weights.sum()
        scores = result
    return scores


def test_equals_a_loop_over_pixels() -> None:
    rng = np.random.default_rng(0)
    image, scores = rng.uniform(0, 255, (3, 7, 9)), rng.random((2, 7, 9))
    inside = np.ones((7, 9), bool)
    inside[:, 7:] = False
    got = pamr(torch.as_tensor(image)[None], torch.as_tensor(scores)[None],
               torch.as_tensor(inside)[None], 2, (1, 2))
    expected = _reference(image, scores, inside, 2, (1, 2))
    np.testing.assert_allclose(got[0].numpy(), expected, atol=1e-4)


def test_follows_the_edge_of_the_image() -> None:
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:] = 200
    image += torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) * 5
    scores = torch.zeros(1, 2, 16, 16)
    scores[:, 0, :, :6], scores[:, 1, :, 6:] = 1, 1  # two columns off
    labels = pamr(image, scores, torch.ones(1, 16, 16, dtype=torch.bool), 10, (1, 2, 4)).argmax(1)
    assert (labels[0, :, 8:] == 1).all()
    assert (labels[0, :, :8] == 0).float().mean() > 0.9


def test_flat_images_all_outside_and_nan_are_finite() -> None:
    scores = torch.full((1, 2, 5, 5), 0.5)
    scores[0, 0, 0, 0] = float('nan')
    for inside in (torch.ones(1, 5, 5), torch.zeros(1, 5, 5)):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            got = pamr(torch.zeros(1, 3, 5, 5), scores, inside.bool(), 2)
        assert got.dtype == torch.float32 and torch.isfinite(got).all()
