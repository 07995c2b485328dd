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

# Of Sinkhorn's updates before Newton's steps: each costs a fifth of one, or less.
_WARM_UPDATES = 8


class _Problem:
    """What the class potentials g are sought for; images of the batch are solved side by side.

    Most of the time goes into exponentials. So those of one g, the *anchor*, are kept as a kernel,
    and factors beside it stand for what g has become since.

    Args:
        logits (Tensor): (B, C, N), S / λ.
        log_share (Tensor): (B, C), logarithm of the mass that each class is to receive.
        used (Tensor): Bool (B, C), classes that take part.
        inside (Tensor): Bool (B, N), False = padding.
        damping (float): ρ / (ρ + λ), what the KL penalty makes of an update; 1 = hard marginal.
    """

    def __init__(self, logits: Tensor, log_share: Tensor, used: Tensor, inside: Tensor,
                 damping: float) -> None:
        self.logits = logits
        self.log_share = log_share
        self.used = used
        self.damping = damping
        self.weight = inside.float()[:, None]  # (B, 1, N), sums 1: the mass of each pixel
        self.weight = self.weight / self.weight.sum(2, keepdim=True).clamp_min(1)
        # On a CPU, new memory for maps of this size costs several times the arithmetic.
        self._kernel, self._work = torch.empty_like(logits), torch.empty_like(logits)
        self._anchor = log_share

    def anchor_at(self, potential: Tensor) -> None:
        """Make the kernel: what each pixel gives to classes at g (B, C), times any factor."""
        self._anchor = potential
        torch.add(self.logits, potential[:, :, None].float(), out=self._kernel)
        self._kernel.sub_(self._kernel.amax(1, keepdim=True)).exp_()

    def clamp(self, potential: Tensor) -> Tensor:
        """As near to the anchor as float32 needs it: factors within e^±20 lose nothing."""
        return self._anchor + (potential - self._anchor).clamp(-20, 20)

    def update(self, potential: Tensor, count: int) -> Tensor:
        """Sinkhorn's updates of a clamped g; each is two matrix products with the kernel.

        An update is ``g = damping * (g + log_share - log(mass of the class))``.
        """
        constant = self.damping * self.log_share - (1 - self.damping) * self._anchor.float()
        scale = self._scale(potential)
        for _ in range(count):
            total = torch.bmm(scale[:, None], self._kernel)
            mass = torch.bmm(self._kernel, (self.weight / total).transpose(1, 2))[..., 0]  # / scale
            shift = torch.add(constant, mass.clamp_min(_TINY).log(), alpha=-self.damping)
            scale = shift.clamp(-20, 20).exp()
        return self._anchor + shift

    def ties(self, potential: Tensor) -> Tensor:
        """Mass that classes share with each other at a clamped g, (B, C, C), float64, sums 1.

        The classes of a pixel share all of it, so what a class shares with all of them is what it
        receives.
        """
        scale = self._scale(potential)
        total = torch.bmm(scale[:, None], self._kernel)
        torch.mul(self._kernel, self.weight / total.square(), out=self._work)
        ties = torch.bmm(self._work, self._kernel.transpose(1, 2))
        ties = (ties * (scale[:, :, None] * scale[:, None])).double()
        ties = ties + ties.transpose(1, 2)
        return ties / ties.sum((1, 2), keepdim=True).clamp_min(_TINY)

    def plan(self, potential: Tensor) -> Tensor:
        """The plan (B, C, N) at a clamped g, in the memory of the kernel."""
        scale = self._scale(potential)
        total = torch.bmm(scale[:, None], self._kernel)
        # An image without a class has no plan.
        self._kernel *= (scale * self.used)[:, :, None]
        self._kernel *= self.weight / total
        return self._kernel

    def _scale(self, potential: Tensor) -> Tensor:
        return (potential - self._anchor).exp().float()


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


def _check_settings(reg: float, num_iters: int | None, relax: float | None) -> None:
    if not reg > 0:
        raise ValueError(f'Expected reg to be positive, but got {reg}.')
    if relax is not None and not relax >= 0:
        raise ValueError(f'Expected relax to be None or at least 0, but got {relax}.')
    if num_iters is not None and num_iters < 0:
        raise ValueError(f'Expected num_iters to be None or at least 0, but got {num_iters}.')


def _masks(scores: Tensor, class_mask: Tensor | None,
           pixel_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, classes, pixels = scores.shape
    if class_mask is None:
        class_mask = scores.new_ones((batch, classes), dtype=torch.bool)
    if pixel_mask is None:
        pixel_mask = scores.new_ones((batch, pixels), dtype=torch.bool)
    return class_mask.bool(), pixel_mask.bool()


@torch.no_grad()
def sinkhorn(scores: Tensor,
             reg: float = 0.1,
             class_marginal: Tensor | None = None,
             class_mask: Tensor | None = None,
             pixel_mask: Tensor | None = None,
             num_iters: int | None = None,
             relax: float | None = None) -> Tensor:
    r"""Transport plan of :math:`\min_T \sum T_{ij}(1 - S_{ij}) - \lambda H(T)` (DHR, Eq. 2).

    Every valid pixel carries the mass ``1 / #pixels``; class ``j`` receives
    ``class_marginal[j]``.  With the pixel constraint solved exactly the plan is
    ``T_ij = softmax_j(S_ij / reg + g_j) / #pixels``: only the class potentials
    ``g`` are iterated.  By default they converge: the dual problem has no more
    variables than classes, so Newton's method solves it in a few steps, where
    Sinkhorn's updates take tens (``reg`` = 0.1) to thousands (0.005).

    With ``relax`` the class masses are not a constraint but a wish: the problem gets the penalty
    ``relax * KL(mass | class_marginal)`` (unbalanced transport, Chizat et al. 2018; the pixel
    constraint stays hard). Large values approach the constraint, 0 leaves a softmax.

    Args:
        scores (Tensor): Similarities S of shape (B, C, N), usually in [0, 1].
            Computed in float32 whatever the input (or autocast) type.
        reg (float): Weight λ of the entropy, > 0. Defaults to 0.1.
        class_marginal (Tensor, optional): Non-negative mass per class, shape
            (B, C); normalised over the unmasked classes. Defaults to None,
            the uniform marginal of the paper; all zero is uniform too.
        class_mask (Tensor, optional): Bool (B, C), False = not in the image.
        pixel_mask (Tensor, optional): Bool (B, N), False = padding.
        num_iters (int, optional): Stop early, after so many of Sinkhorn's updates; the masses of
            the classes then lie between those of the softmax and ``class_marginal``. (The
            authors' code stops after 2 to 11, as the input will have it.) Defaults to None, the
            converged plan.
        relax (float, optional): ρ >= 0 of the penalty. Defaults to None, the hard constraint.

    Returns:
        Tensor: Plan T of shape (B, C, N), float32, total mass 1 per image that
        has at least one class and one pixel, and 0 elsewhere. With one class
        the plan is constant. It carries no gradient.

    Raises:
        ValueError: If a shape does not fit, ``reg`` is not positive, or ``relax`` or
            ``num_iters`` is negative.
    """
    _check_scores(scores, class_mask, pixel_mask)
    _check_settings(reg, num_iters, relax)
    if not scores.numel():
        return scores.float()
    with torch.autocast(scores.device.type, enabled=False):
        problem = _problem(scores, reg, class_marginal, class_mask, pixel_mask, relax)
        if num_iters is None:
            # As many steps as random hard problems took, and half as many again.
            potential = _converged_potentials(problem, 40 + math.ceil(0.4 / reg))
        else:
            potential = _sinkhorn_potentials(problem, num_iters)
            problem.anchor_at(potential)
        return problem.plan(potential)


def _problem(scores: Tensor, reg: float, class_marginal: Tensor | None, class_mask: Tensor | None,
             pixel_mask: Tensor | None, relax: float | None) -> _Problem:
    class_mask, pixel_mask = _masks(scores, class_mask, pixel_mask)
    damping = 1.0 if relax is None or math.isinf(relax) else relax / (relax + reg)
    return _Problem(_logits(scores, reg, class_mask), _log_class_shares(class_marginal, class_mask),
                    class_mask & pixel_mask.any(1, keepdim=True), pixel_mask, damping)


def _logits(scores: Tensor, reg: float, class_mask: Tensor) -> Tensor:
    """``S / reg``, at most 0 in every pixel and -inf for unused classes; a tensor of its own."""
    # NaN scores count as "no evidence" instead of poisoning the image.
    logits = torch.nan_to_num_(scores.float() / reg, nan=0.0)
    # An image without any class keeps them all: its softmax must not be NaN.
    unused = ~class_mask & class_mask.any(1, keepdim=True)
    logits += unused.float().masked_fill_(unused, -math.inf)[:, :, None]
    return logits.sub_(logits.amax(1, keepdim=True))


def _log_class_shares(class_marginal: Tensor | None, class_mask: Tensor) -> Tensor:
    shares = class_mask.float() if class_marginal is None else class_marginal.float()
    if shares.shape != class_mask.shape:
        raise ValueError(f'Expected class_marginal of shape {tuple(class_mask.shape)}, '
                         f'but got {tuple(shares.shape)}.')
    shares = shares.clamp_min(0) * class_mask
    shares = torch.where(shares.sum(1, keepdim=True) > 0, shares, class_mask.float())
    return (shares / shares.sum(1, keepdim=True).clamp_min(_TINY)).clamp_min(_TINY).log()


def _sinkhorn_potentials(problem: _Problem, num_iters: int) -> Tensor:
    """Class potentials g, shape (B, C), after ``num_iters`` Sinkhorn updates.

    The anchor moves now and then, often at first, when the potentials move most: no plan underflows
    for good however large the logits are.
    """
    potential = torch.zeros_like(problem.log_share)
    step = 0
    while step < num_iters:
        problem.anchor_at(potential)
        count = min(max(step, 1), 16, num_iters - step)
        potential = problem.update(potential, count)
        step += count
    return potential


def _converged_potentials(problem: _Problem, max_steps: int) -> Tensor:
    """Class potentials g, shape (B, C), float64, that solve the problem.

    They maximise the concave dual; with k = λ / ρ (0 for the hard constraint) its gradient is
    ``wanted - received``, where ``wanted = share * exp(-k g)``. A few of Sinkhorn's updates, which
    are cheap, come near on most scores. From there every image takes, step for step, the Newton
    step or Sinkhorn's update, whichever promises more; either ascends.
    """
    damping, used = problem.damping, problem.used.double()
    log_share = problem.log_share.double()
    potential = damping * log_share
    problem.anchor_at(potential)
    if damping == 0:
        return potential
    potential = problem.clamp(problem.update(potential, _WARM_UPDATES))
    slope = (1 - damping) / damping
    wanted = log_share.exp()
    # Classes that share no pixel are not tied to the others: a little of the identity.
    floor = penalty = 1 - used + 1e-12
    for step in range(max_steps):
        if step % 8 == 3:
            problem.anchor_at(potential)
        ties = problem.ties(potential)
        received = ties.sum(2)
        if slope:
            wanted = (log_share - slope * potential).exp() * used
            penalty = slope * wanted + floor
        gradient = (wanted - received) * used
        newton, promise, size = _newton_step(ties, gradient, received, penalty, slope)
        update = (damping * (potential + log_share - received.clamp_min(_TINY).log())
                  - potential) * used
        better = promise >= (gradient * update).sum(1, keepdim=True) / 2
        potential = problem.clamp(potential + torch.where(better, newton, update))
        # Newton squares the error: what a smaller step leaves is below float32. To ask is free
        # on the CPU alone. Elsewhere the host waits for the answer, but four steps in vain are
        # 200 kernels to launch, which takes longer.
        if (size.device.type == 'cpu' or step % 4 == 1) and bool((size < 5e-4).all()):
            break
    return potential


def _newton_step(ties: Tensor, gradient: Tensor, received: Tensor, penalty: Tensor,
                 slope: float) -> tuple[Tensor, Tensor, Tensor]:
    """Damped Newton step (B, C), the ascent that it promises and its undamped size, (B, 1).

    The curvature ``diag(received) - P P^T / N`` is the Laplacian of the graph in which two classes
    are tied by the pixels that they share; ``penalty`` is added to its diagonal. The dual is
    generalised self-concordant, so a step damped by ``log(1 + size) / size`` ascends from anywhere
    (Sun & Tran-Dinh 2019).
    """
    curvature = torch.diag_embed(received + penalty) - ties
    if slope == 0:  # a constant added to all potentials changes nothing: their mean stays
        curvature = curvature + received[:, :, None] * received[:, None]
    factor, failed = torch.linalg.cholesky_ex(curvature)
    step = torch.cholesky_solve(gradient[..., None], factor)[..., 0]
    size = step.amax(1, keepdim=True) - step.amin(1, keepdim=True)
    if slope:
        size = torch.maximum(size, slope * step.abs().amax(1, keepdim=True))
    bounded = size.clamp_min(1e-4)
    growth = bounded.log1p()
    promise = (gradient * step).sum(1, keepdim=True)
    promise = promise * ((1 + bounded) * growth - bounded) / bounded**2
    promise.masked_fill_((failed > 0)[:, None], -math.inf)
    return step * (growth / bounded), promise, size


@torch.no_grad()
def min_max_normalize(maps: Tensor, pixel_mask: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Scale every map to [0, 1] over its valid pixels; a constant map becomes 0.

    Args:
        maps (Tensor): Shape (B, C, N).
        pixel_mask (Tensor, optional): Bool (B, N). Pixels outside become 0.
        eps (float): Lower clip of the denominator **relative to the largest
            absolute value of the map**, because a transport plan is of the
            order ``1 / N`` and an absolute clip would flatten it.

    Returns:
        Tensor: Shape (B, C, N), same dtype. It carries no gradient.
    """
    if pixel_mask is None:
        pixel_mask = maps.new_ones((maps.shape[0], maps.shape[2]), dtype=torch.bool)
    outside = ~pixel_mask[:, None, :]
    scaled = maps.masked_fill(outside, math.inf)
    low = scaled.amin(2, keepdim=True)
    high = scaled.masked_fill_(outside, -math.inf).amax(2, keepdim=True)
    floor = eps * torch.maximum(high.abs(), low.abs())
    spread = torch.maximum(high - low, floor).clamp_min(max(_TINY, torch.finfo(maps.dtype).tiny))
    return scaled.sub_(low).div_(spread).masked_fill_(outside, 0.0)


def transport_scores(scores: Tensor,
                     reg: float = 0.1,
                     class_marginal: Tensor | None = None,
                     class_mask: Tensor | None = None,
                     pixel_mask: Tensor | None = None,
                     num_iters: int | None = None,
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
    alone = class_mask & (class_mask.sum(1, keepdim=True) < 2)
    return factor.masked_fill_(alone[:, :, None] & pixel_mask[:, None, :], 1.0)
