from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmseg_dhr.ops import Climbing, climb

WEIGHT = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.8, -0.4]], dtype=torch.float64)  # (K, 3)


def linear(images: torch.Tensor) -> torch.Tensor:
    """Class maps of a 1x1 convolution."""
    return torch.einsum('kc,nchw->nkhw', WEIGHT.to(images), images)


def climb_by_hand(image: np.ndarray, own: int, settings: Climbing) -> np.ndarray:
    """The same for one image (3, h, w) and :func:`linear`, with the gradient worked out."""
    weight, cells = WEIGHT.numpy(), image[0].size
    start = np.tensordot(weight[own], image, 1)
    total = np.maximum(start, 0)
    for _ in range(settings.iters):
        maps = np.tensordot(weight[own], image, 1)
        high = np.maximum(maps, 0) / max(maps.max(), 1e-5) > settings.keep_threshold
        keep = settings.keep_weight * high * np.sign(maps - start)
        others = weight.sum(0) - weight[own]
        slope = (weight[own] - settings.others_weight * others)[:, None, None]
        slope = slope - keep * weight[own][:, None, None]
        image = image + settings.step * slope / cells
        total = total + np.maximum(np.tensordot(weight[own], image, 1), 0)
    return total


@pytest.mark.parametrize('settings', [Climbing(4, 0.5), Climbing(3, 0.5, keep_weight=0.0),
                                      Climbing(3, 0.5, others_weight=0.3, keep_threshold=0.1),
                                      Climbing(0)])
def test_by_hand(settings) -> None:
    images = torch.randn(3, 3, 4, 5, dtype=torch.float64, generator=torch.manual_seed(0))
    found = climb(linear, images, torch.tensor([0, 1, 0]), settings)
    assert found.dtype == torch.float32 and not found.requires_grad
    for row, own in enumerate((0, 1, 0)):
        expected = climb_by_hand(images[row].numpy(), own, settings)
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_the_logit_rises_also_without_gradient_mode() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Tanh(),
                              torch.nn.Conv2d(8, 4, 1)).requires_grad_(False)
    images, classes = torch.randn(4, 3, 8, 8), torch.arange(4)
    with torch.no_grad():
        plain = net(images)[classes, classes].relu()
        found = climb(net, images, classes, Climbing(5, 50.0, others_weight=0.0,
                                                         keep_weight=0.0))
    assert found.mean() > 1.2 * 6 * plain.mean()


def test_high_regions_are_kept() -> None:
    """With a large lambda the cells above tau gain less than the others."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, 6, 6)
    maps = F.relu(linear(image))[0, 1]
    high = maps > 0.5 * maps.max()
    steps = 10
    gained = climb(linear, image, torch.tensor([1]), Climbing(steps, 2.0, keep_weight=50.0))[0] \
        - (steps + 1) * maps
    assert high.any() and not high.all()
    assert gained[high].mean() < 0.5 * gained[~high].mean()


def test_no_row() -> None:
    found = climb(linear, torch.zeros(0, 3, 4, 4), torch.zeros(0, dtype=torch.long), Climbing(1))
    assert found.shape == (0, 4, 4)


def test_weights_get_no_gradient() -> None:
    net = torch.nn.Conv2d(3, 2, 1)
    climb(net, torch.randn(1, 3, 4, 4), torch.tensor([1]), Climbing(2))
    assert net.weight.grad is None
