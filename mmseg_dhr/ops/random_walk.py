"""Affinities of neighbouring pixels and the random walk over them (PSA, IRNet).

Pixels are neighbours within a radius. An affinity is symmetric, so a grid stores half of it:
``affinity[:, k, y, x]`` ties pixel (y, x) to pixel (y, x) + ``offsets[k]``, and is 0 where that
lies outside. Each pixel has the affinity 1 with itself.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    'affinity_from_boundary', 'affinity_from_features', 'neighbour_offsets', 'random_walk',
    'two_stage_walk'
]

Offset = tuple[int, int]


def neighbour_offsets(radius: int = 5) -> list[Offset]:
    """Steps (dy, dx) to half of the neighbours nearer than ``radius``; the others are opposite.

    Args:
        radius (int): In pixels, at least 2. Defaults to 5, PSA's and IRNet's: 34 offsets.

    Raises:
        ValueError: If the radius is smaller: nobody would have a neighbour.
    """
    if radius < 2:
        raise ValueError(f'Expected a radius of at least 2, but got {radius}.')
    return [(y, x) for y in range(radius) for x in range(1 - radius, radius)
            if y * y + x * x < radius * radius and (y, x) > (0, 0)]


def affinity_from_features(features: Tensor, radius: int = 5) -> Tensor:
    """PSA's affinity ``exp(-mean_d |f_i - f_j|)`` (Ahn & Kwak, CVPR 2018).

    Args:
        features (Tensor): (B, D, h, w); computed in float32.
        radius (int): Of :func:`neighbour_offsets`. Defaults to 5.

    Returns:
        Tensor: Float32 (B, K, h, w) in [0, 1], one map per offset; 0 where the neighbour lies
        outside.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features.float()
        maps = []
        for offset in neighbour_offsets(radius):
            here, there = _pairs(features.shape[-2:], offset)
            distance = (features[..., here[0], here[1]] - features[..., there[0], there[1]]).abs()
            maps.append(_place((-distance.mean(1)).exp(), features.shape[-2:], offset))
        return torch.stack(maps, 1)


def affinity_from_boundary(boundary: Tensor, radius: int = 5) -> Tensor:
    """IRNet's affinity: 1 - the highest boundary between two pixels (Ahn et al., CVPR 2019).

    Between them lie all pixels of their bounding box nearer than 1 to the line from one to the
    other, both included: a boundary one pixel thin has no gaps at its corners.

    Args:
        boundary (Tensor): (B, h, w) in [0, 1]; computed in float32.
        radius (int): Of :func:`neighbour_offsets`. Defaults to 5.

    Returns:
        Tensor: Float32 (B, K, h, w) in [0, 1], one map per offset; 0 where the neighbour lies
        outside.

    Raises:
        ValueError: If the shape is another.
    """
    if boundary.ndim != 3:
        raise ValueError(f'Expected a boundary of shape (B, h, w), but got '
                         f'{tuple(boundary.shape)}.')
    boundary = boundary.float()
    height, width = boundary.shape[-2:]
    maps = []
    for offset in neighbour_offsets(radius):
        here, _ = _pairs((height, width), offset)
        rows, columns = (range(s.start, s.stop) for s in here)
        highest = torch.stack([
            boundary[:, rows.start + y:rows.stop + y, columns.start + x:columns.stop + x]
            for y, x in _between(offset)
        ]).amax(0)
        maps.append(_place(1 - highest, (height, width), offset))
    return torch.stack(maps, 1)


@torch.no_grad()
def random_walk(scores: Tensor,
                affinity: Tensor,
                offsets: Sequence[Offset],
                beta: float = 8.0,
                num_steps: int = 256,
                pixel_mask: Tensor | None = None,
                receivers: Tensor | None = None) -> Tensor:
    r"""Spread scores along affinities: ``scores @ T**num_steps``, never forming T.

    ``T_ij = A_ij**β / Σ_i A_ij**β``: each **column** sums to 1, as in PSA and IRNet. So at every
    step each pixel j takes the average of its neighbours' scores, weighted by its affinities with
    them. Constants stay as they are, maxima do not grow, and the sum over pixels of the scores
    times ``d_j = Σ_i A_ij**β`` is kept. T has some 70 entries per column; a step costs as many
    products per pixel, where squaring the dense T, as usual, costs (h w)² per pixel.

    Args:
        scores (Tensor): (B, C, h, w); computed in float32, NaN counts as 0.
        affinity (Tensor): (B, K, h, w), non-negative, for example of
            :func:`affinity_from_features`; what ties to outside of the grid or the mask counts
            as 0, and so does NaN.
        offsets (Sequence[tuple[int, int]]): The K steps of :func:`neighbour_offsets`.
        beta (float): β, > 0. Defaults to 8 (PSA; IRNet takes 10).
        num_steps (int): Steps, >= 0. Defaults to 256 (PSA's ``logt`` 8 and IRNet's
            ``exp_times`` 8).
        pixel_mask (Tensor, optional): Bool (B, h, w), False = padding.
        receivers (Tensor, optional): Bool (B, h, w), the pixels that take scores of their
            neighbours; the others only give, and keep their own. Defaults to all.

    Returns:
        Tensor: Float32 (B, C, h, w), 0 outside of the mask. It carries no gradient.

    Raises:
        ValueError: If a shape does not fit, ``beta`` is not positive or ``num_steps`` negative.
    """
    _check_walk(scores, affinity, offsets, beta, num_steps)
    _check_pixels(scores, pixel_mask=pixel_mask, receivers=receivers)
    batch, classes, height, width = scores.shape
    if not scores.numel():
        return scores.float()
    inside = torch.ones_like(scores[:, 0], dtype=torch.bool) if pixel_mask is None else pixel_mask
    scores = torch.nan_to_num(scores.float()).masked_fill(~inside[:, None], 0.0)
    with torch.autocast(scores.device.type, enabled=False):
        neighbours, weights = _transitions(affinity, offsets, beta, inside)
        if receivers is not None:
            weights = torch.where(receivers.flatten()[:, None], weights,
                                  _own(weights.shape[1], weights))
        walked = scores.permute(0, 2, 3, 1).reshape(-1, classes)  # (B h w, C)
        for _ in range(num_steps):
            walked = F.embedding_bag(neighbours, walked, mode='sum', per_sample_weights=weights)
    return walked.view(batch, height, width, classes).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def two_stage_walk(scores: Tensor,
                   affinity: Tensor,
                   offsets: Sequence[Offset],
                   boundary: Tensor,
                   beta: float = 8.0,
                   num_steps: int = 256,
                   pixel_mask: Tensor | None = None) -> Tensor:
    """RETAB's boundary-aware propagation (Eqs. 2 and 3).

    In the first walk only pixels off the boundary meet, so that the boundary isolates; those on it
    keep their scores. In the second only pixels on the boundary receive, from everyone.

    Args:
        scores, affinity, offsets, beta, num_steps, pixel_mask: See :func:`random_walk`; the steps
            are those of each stage.
        boundary (Tensor): Bool (B, h, w).

    Returns:
        Tensor: Float32 (B, C, h, w), 0 outside of the mask. It carries no gradient.

    Raises:
        ValueError: As :func:`random_walk`.
    """
    _check_walk(scores, affinity, offsets, beta, num_steps)
    _check_pixels(scores, pixel_mask=pixel_mask, boundary=boundary)
    inside = torch.ones_like(boundary) if pixel_mask is None else pixel_mask
    first = random_walk(scores, affinity, offsets, beta, num_steps, inside & ~boundary)
    first = torch.where(boundary[:, None], torch.nan_to_num(scores.float()), first)
    return random_walk(first, affinity, offsets, beta, num_steps, inside, receivers=boundary)


def _check_walk(scores: Tensor, affinity: Tensor, offsets: Sequence[Offset], beta: float,
                num_steps: int) -> None:
    if scores.ndim != 4:
        raise ValueError(f'Expected scores of shape (B, C, h, w), but got {tuple(scores.shape)}.')
    batch, _, height, width = scores.shape
    expected = (batch, len(offsets), height, width)
    if affinity.shape != expected:
        raise ValueError(
            f'Expected an affinity of shape {expected}, but got {tuple(affinity.shape)}.')
    if not beta > 0 or num_steps < 0:
        raise ValueError('Expected a positive beta and num_steps of at least 0, '
                         f'but got {beta} and {num_steps}.')


def _check_pixels(scores: Tensor, **masks: Tensor | None) -> None:
    expected = (scores.shape[0], *scores.shape[2:])
    for name, mask in masks.items():
        if mask is not None and mask.shape != expected:
            raise ValueError(f'Expected {name} of shape {expected}, but got {tuple(mask.shape)}.')


def _own(entries: int, like: Tensor) -> Tensor:
    """Weights (entries,) of a pixel that receives nothing: the last entry is its own."""
    weights = like.new_zeros(entries)
    weights[-1] = 1
    return weights


def _transitions(affinity: Tensor, offsets: Sequence[Offset], beta: float,
                 inside: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of everyone's neighbours in the flattened batch and their weights, (B h w, 2 K + 1).

    A neighbour that does not exist is the pixel itself, with weight 0.

    The same rounding at every step would add up: the weights are divided in float64, and the pixel
    itself, often by far the heaviest, is added last.
    """
    size = inside.shape[-2:]
    power = torch.nan_to_num(affinity.double()).clamp_min(0)**beta
    own = torch.arange(inside.numel(), dtype=torch.int32, device=inside.device).view(inside.shape)
    neighbours: list[Tensor] = []
    weights: list[Tensor] = []
    for k, offset in enumerate(offsets):
        here, there = _pairs(size, offset)
        tie = power[:, k, here[0], here[1]] * (inside[:, here[0], here[1]] &
                                               inside[:, there[0], there[1]])
        opposite = -offset[0], -offset[1]
        for start, end, step in ((here, there, offset), (there, here, opposite)):
            index = own.clone()
            index[:, start[0], start[1]] = own[:, end[0], end[1]]
            neighbours.append(index)
            weights.append(_place(tie, size, step))
    table = torch.stack([*weights, torch.ones_like(own, dtype=power.dtype)], -1).flatten(0, 2)
    table /= table.sum(1, keepdim=True)
    return torch.stack([*neighbours, own], -1).flatten(0, 2), table.float()


def _pairs(size: Sequence[int], offset: Offset) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where on a grid the pixels that have a neighbour at ``offset`` are, and where those are."""
    here: list[slice] = []
    there: list[slice] = []
    for length, step in zip(size, offset, strict=True):
        count = max(length - abs(step), 0)
        first = min(max(-step, 0), length)
        here.append(slice(first, first + count))
        there.append(slice(first + step, first + step + count) if count else slice(0, 0))
    return (here[0], here[1]), (there[0], there[1])


def _place(values: Tensor, size: Sequence[int], offset: Offset) -> Tensor:
    """Values at the pixels that have a neighbour at ``offset``, 0 at the others; (B, h, w)."""
    rows, columns = _pairs(size, offset)[0]
    return F.pad(values, (columns.start, size[1] - columns.stop, rows.start, size[0] - rows.stop))


def _between(offset: Offset) -> list[Offset]:
    """Pixels of the bounding box of (0, 0) and ``offset`` nearer than 1 to the line."""
    end_y, end_x = offset
    return [(y, x) for y in range(min(end_y, 0), max(end_y, 0) + 1)
            for x in range(min(end_x, 0), max(end_x, 0) + 1)
            if (end_y * x - end_x * y)**2 < end_y**2 + end_x**2]
