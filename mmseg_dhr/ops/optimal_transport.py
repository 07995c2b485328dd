"""Entropic optimal transport between pixels and classes (DHR, Eq. 2).

Everything works on a batch of score maps that were flattened to
``(B, C, N)``: C classes, N pixels.  Images of different size and class count
share a batch through masks; a masked class or pixel takes no part.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ['PLANS', 'min_max_normalize', 'sinkhorn', 'transport_scores']

PLANS = ('min_max', 'raw')

# A marginal of zero would be -inf in the log domain and make NaN of the sums.
_TINY = 1e-30


def _check_scores(scores: Tensor, class_mask: Tensor | None, pixel_mask: Tensor | None) -> None:
    if scores.ndim != 3:
        raise ValueError(f'Expected scores of shape (B, C, N), but got {tuple(scores.shape)}.')
    batch, classes, pixels = scores.shape
    if class_mask is not None and class_mask.shape != (batch, classes):
        raise ValueError(
            f'Expected class_mask of shape {(batch, classes)}, but got {tuple(class_mask.shape)}.')
    if pixel_mask is not None and pixel_mask.shape != (batch, pixels):
        raise ValueError(
            f'Expected pixel_mask of shape {(batch, pixels)}, but got {tuple(pixel_mask.shape)}.')


def _masks(scores: Tensor, class_mask: Tensor | None,
           pixel_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, classes, pixels = scores.shape
    if class_mask is None:
        class_mask = scores.new_ones((batch, classes), dtype=torch.bool)
    if pixel_mask is None:
        pixel_mask = scores.new_ones((batch, pixels), dtype=torch.bool)
    return class_mask.bool(), pixel_mask.bool()


def sinkhorn(scores: Tensor,
             reg: float = 0.1,
             class_marginal: Tensor | None = None,
             class_mask: Tensor | None = None,
             pixel_mask: Tensor | None = None,
             num_iters: int = 100,
             relax: float | None = None) -> Tensor:
    r"""Transport plan of :math:`\min_T \sum T_{ij}(1 - S_{ij}) - \lambda H(T)` (DHR, Eq. 2).

    Every valid pixel carries the mass ``1 / #pixels``; class ``j`` receives
    ``class_marginal[j]``.  With the pixel constraint solved exactly the plan is
    ``T_ij = softmax_j(S_ij / reg + g_j) / #pixels``: only the class potentials
    ``g`` are iterated, in the log domain, so large costs do not underflow.
    The number of iterations is fixed, so nothing waits for the device.

    With ``relax`` the class masses are not a constraint but a wish: the problem gets the penalty
    ``relax * KL(mass | class_marginal)`` (unbalanced transport, Chizat et al. 2018; the pixel
    constraint stays hard). Large values approach the constraint, 0 leaves a softmax.

    Args:
        scores (Tensor): Similarities S of shape (B, C, N), usually in [0, 1].
            Computed in float32 whatever the input (or autocast) type.
        reg (float): Weight λ of the entropy, > 0. Defaults to 0.1.
        class_marginal (Tensor, optional): Non-negative mass per class, shape
            (B, C); normalised over the unmasked classes. Defaults to None,
            the uniform marginal of the paper.
        class_mask (Tensor, optional): Bool (B, C), False = not in the image.
        pixel_mask (Tensor, optional): Bool (B, N), False = padding.
        num_iters (int): Number of updates of the potentials. Defaults to 100.
        relax (float, optional): ρ >= 0 of the penalty. Defaults to None, the hard constraint.

    Returns:
        Tensor: Plan T of shape (B, C, N), float32, total mass 1 per image that
        has at least one class and one pixel, and 0 elsewhere. With one class
        the plan is constant.

    Raises:
        ValueError: If a shape does not fit, ``reg`` is not positive or ``relax`` negative.
    """
    _check_scores(scores, class_mask, pixel_mask)
    if not reg > 0:
        raise ValueError(f'Expected reg to be positive, but got {reg}.')
    if relax is not None and not relax >= 0:
        raise ValueError(f'Expected relax to be None or at least 0, but got {relax}.')
    damping = 1.0 if relax is None or math.isinf(relax) else relax / (relax + reg)
    class_mask, pixel_mask = _masks(scores, class_mask, pixel_mask)
    with torch.autocast(scores.device.type, enabled=False):
        allowed = class_mask[:, :, None] & pixel_mask[:, None, :]  # (B, C, N)
        # NaN scores count as "no evidence" instead of poisoning the image.
        logits = torch.nan_to_num(scores.float(), nan=0.0) / reg
        logits = logits.masked_fill(~class_mask[:, :, None], -math.inf)
        log_share = _log_class_shares(class_marginal, class_mask)  # (B, C)
        pixels = pixel_mask.sum(1).clamp_min(1).float()  # (B,)
        potential = _solve_potentials(logits, log_share, class_mask, pixel_mask, num_iters,
                                      damping)
        # An image without any class has only -inf logits: softmax gives NaN there.
        plan = torch.softmax(logits + potential[:, :, None], dim=1) / pixels[:, None, None]
        return plan.masked_fill(~allowed, 0.0)


def _log_class_shares(class_marginal: Tensor | None, class_mask: Tensor) -> Tensor:
    shares = class_mask.float() if class_marginal is None else class_marginal.float()
    if shares.shape != class_mask.shape:
        raise ValueError(f'Expected class_marginal of shape {tuple(class_mask.shape)}, '
                         f'but got {tuple(shares.shape)}.')
    shares = shares.clamp_min(0) * class_mask
    return (shares / shares.sum(1, keepdim=True).clamp_min(_TINY)).clamp_min(_TINY).log()


def _solve_potentials(logits: Tensor, log_share: Tensor, class_mask: Tensor, pixel_mask: Tensor,
                      num_iters: int, damping: float) -> Tensor:
    """Class potentials g, shape (B, C), after ``num_iters`` Sinkhorn updates.

    ``damping`` = ρ / (ρ + λ) is what the KL penalty makes of the update; 1 = hard marginal.
    """
    outside = ~pixel_mask[:, None, :]
    log_pixels = pixel_mask.sum(1, keepdim=True).clamp_min(1).float().log()  # (B, 1)
    potential = torch.zeros_like(log_share)
    for _ in range(num_iters):
        assigned = torch.log_softmax(logits + potential[:, :, None], dim=1)  # (B, C, N)
        received = torch.logsumexp(assigned.masked_fill(outside, -math.inf), dim=2) - log_pixels
        update = (log_share - received).masked_fill(~class_mask, 0.0)
        update = torch.nan_to_num(update, nan=0.0, posinf=0.0, neginf=0.0)
        potential = damping * (potential + update)
    return potential


def min_max_normalize(maps: Tensor, pixel_mask: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Scale every map to [0, 1] over its valid pixels; a constant map becomes 0.

    Args:
        maps (Tensor): Shape (B, C, N).
        pixel_mask (Tensor, optional): Bool (B, N). Pixels outside become 0.
        eps (float): Lower clip of the denominator **relative to the largest
            absolute value of the map**, because a transport plan is of the
            order ``1 / N`` and an absolute clip would flatten it.

    Returns:
        Tensor: Shape (B, C, N), same dtype.
    """
    if pixel_mask is None:
        pixel_mask = maps.new_ones((maps.shape[0], maps.shape[2]), dtype=torch.bool)
    inside = pixel_mask[:, None, :]
    low = maps.masked_fill(~inside, math.inf).amin(2, keepdim=True)
    high = maps.masked_fill(~inside, -math.inf).amax(2, keepdim=True)
    floor = eps * torch.maximum(high.abs(), low.abs())
    spread = torch.maximum(high - low, floor).clamp_min(_TINY)
    return ((maps - low) / spread).masked_fill(~inside, 0.0)


def transport_scores(scores: Tensor,
                     reg: float = 0.1,
                     class_marginal: Tensor | None = None,
                     class_mask: Tensor | None = None,
                     pixel_mask: Tensor | None = None,
                     num_iters: int = 100,
                     relax: float | None = None,
                     plan: str = 'min_max') -> Tensor:
    r"""``f_OT(S)`` as DHR multiplies it with S.

    An image with a single class has a constant plan, which carries no
    information: its factor is 1 everywhere (the operator is bypassed).

    Args:
        scores, reg, class_marginal, class_mask, pixel_mask, num_iters, relax: See
            :func:`sinkhorn`.
        plan (str): ``min_max`` scales each class of the plan to [0, 1]; ``raw`` gives the plan
            times the number of pixels, the share of each pixel that goes to each class.
            Defaults to ``min_max``.

    Returns:
        Tensor: Shape (B, C, N), float32, in [0, 1]; 0 for masked classes and pixels.

    Raises:
        ValueError: If ``plan`` is another word.
    """
    if plan not in PLANS:
        raise ValueError(f'Expected plan to be one of {PLANS}, but got {plan!r}.')
    factor = sinkhorn(scores, reg, class_marginal, class_mask, pixel_mask, num_iters, relax)
    class_mask, pixel_mask = _masks(scores, class_mask, pixel_mask)
    if plan == 'raw':
        factor = factor * pixel_mask.sum(1)[:, None, None]
    else:
        factor = min_max_normalize(factor, pixel_mask)
    single = (class_mask.sum(1) < 2)[:, None, None]
    allowed = class_mask[:, :, None] & pixel_mask[:, None, :]
    return torch.where(single, torch.ones_like(factor), factor).masked_fill(~allowed, 0.0)
