"""Anti-adversarial climbing (AdvCAM, Lee et al., CVPR 2021)."""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .cam import normalize_cam

__all__ = ['Climbing', 'climb']


class Climbing(NamedTuple):
    """How far an image is changed, see :func:`climb`.

    Attributes:
        iters: Steps T; 0 leaves the image as it is.
        step: Step size xi, in units of the normalised image.
        others_weight: Weight of the other classes' logits, which shall not rise; 1 in the paper.
        keep_weight: Weight lambda that keeps regions as they are that score high already.
        keep_threshold: Score in [0, 1] from which a region is one of them, tau.
    """
    iters: int = 27
    step: float = 0.008
    others_weight: float = 1.0
    keep_weight: float = 7.0
    keep_threshold: float = 0.5


def climb(class_maps: Callable[[Tensor], Tensor], inputs: Tensor, classes: Tensor,
          settings: Climbing) -> Tensor:
    """CAMs of a class, added up while the image is changed to show the class more clearly.

    Each step moves the image along the gradient of (Eqs. 5-7)

    ``y_c - w sum_{k != c} y_k - lambda mean(M |m_c(x) - m_c(x_0)|)``

    where the logit ``y_k`` is the mean of the class map ``m_k`` over the image, and ``M`` marks the
    cells whose normalised CAM exceeds tau. The paper leaves open how the last term is averaged;
    here, as the logits are. Its gradient is 0 at the first step. The result is the sum of the
    rectified CAMs over all images x_0..x_T (Eq. 4).

    Rows do not influence each other, provided that the network is in eval mode.

    Args:
        class_maps (Callable): Normalised images (N, 3, H, W) -> class maps (N, K, h, w), with a
            gradient to the images.
        inputs (Tensor): Normalised images (N, 3, H, W).
        classes (Tensor): Long (N,), which of the K maps each row is about.
        settings (Climbing): Steps and weights.

    Returns:
        Tensor: Float32 (N, h, w), not negative, without gradient.
    """
    rows = torch.arange(len(inputs), device=inputs.device)
    image = inputs.detach()
    start = total = None
    for iteration in range(settings.iters + 1):
        last = iteration == settings.iters
        with torch.set_grad_enabled(not last):
            image = image.detach().requires_grad_(not last)
            maps = class_maps(image).float()
            own = maps[rows, classes]
        cam = own.detach().relu()
        total = cam if total is None else total + cam
        if last:
            break
        start = own.detach() if start is None else start
        with torch.enable_grad():
            goal = _goal(maps, own, start, settings)
        gradient, = torch.autograd.grad(goal, image)
        image = image + settings.step * gradient
    assert total is not None  # there is at least one pass
    return total


def _goal(maps: Tensor, own: Tensor, start: Tensor, settings: Climbing) -> Tensor:
    """What the climbing raises, summed over the rows."""
    high = normalize_cam(own.detach()[:, None], own.new_ones(len(own), 1))[:, 0]
    changed = (own - start).abs() * (high > settings.keep_threshold)
    logits = maps.mean((2, 3))
    score = own.mean((1, 2))
    score = score - settings.others_weight * (logits.sum(1) - score)
    return (score - settings.keep_weight * changed.mean((1, 2))).sum()
