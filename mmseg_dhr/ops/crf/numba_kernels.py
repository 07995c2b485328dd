"""Filters and updates of the dense CRF's mean field, compiled for the CPU by numba.

The lattice is that of :mod:`.numba_lattice`; its chains of vertices are blurred in place.
"""
from __future__ import annotations

import numpy as np

from .lattice import DIRECTIONS
from .numba_jit import jit
from .numba_vectors import add_row, copy_row, gather_rows

__all__ = ['blur_chains', 'convolve', 'slice_pixels', 'splat_pixels', 'update_probs']

_HALF = np.float32(0.5)
_ALL = (0, ) * DIRECTIONS
_LOG2_E = np.float32(1.4426950408889634)
_SMALLEST = np.float32(-120)  # 2^-120 is nothing
_ROUND = np.float32(1.5 * 2**23)
_ONE_BITS = 127 << 23  # of 1.0
# 2^f for f in [-0.5, 0.5]
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = np.polynomial.Chebyshev.interpolate(
    np.exp2, 6, domain=(-0.5, 0.5)).convert(kind=np.polynomial.Polynomial).coef.astype(np.float32)


# `lanes` is a tuple whose length the compiler knows: how many channels a call takes. Pixels and
# vertices are rows, so that these channels are neighbours: one vector operation for all of them.


@jit
def splat_pixels(vertex: np.ndarray, weights: np.ndarray, maps: np.ndarray, values: np.ndarray,
                 lanes: tuple) -> None:
    """Add pixels to their vertices of one remainder.

    Args:
        vertex: int32 (N,).
        weights: Float32 (N,).
        maps: Float32 (N, len(lanes)).
        values: Float32 (M, len(lanes)), 0 before at the vertices of this remainder.
        lanes: Tuple.
    """
    for i in range(vertex.size):
        add_row(values, vertex[i], weights[i], maps, i, lanes)


@jit
def slice_pixels(vertex: np.ndarray, weights: np.ndarray, values: np.ndarray, start: int,
                 stop: int, maps: np.ndarray, lanes: tuple) -> None:
    """Read the pixels ``start:stop`` back from all their vertices, without the blur's gain.

    Args:
        vertex: int32 (6, N).
        weights: Float32 (6, N).
        values: Float32 (M, len(lanes)).
        start, stop: Range of pixels.
        maps: Filled, float32 (N, len(lanes)).
        lanes: Tuple.
    """
    for i in range(start, stop):
        gather_rows(maps, i, _ALL, weights, vertex, values, lanes)


@jit
def blur_chains(chains: np.ndarray, values: np.ndarray, lanes: tuple) -> None:
    """``value += half of both neighbours`` along the chains of one direction, in place.

    Args:
        chains: int32 (L,) of :func:`link_chains`, whole chains.
        values: Float32 (M, len(lanes)).
        lanes: Tuple.
    """
    old = np.zeros((2, len(lanes)), np.float32)  # what the pair at hand was before
    vertex = max(chains[0], ~chains[0])
    copy_row(old, 0, values, vertex, lanes)
    for i in range(1, chains.size):
        this = i & 1
        ahead = max(chains[i], ~chains[i])
        # Nothing passes from one chain to the next; a branch would be guessed wrong too often.
        half = _HALF * np.float32(chains[i] >= 0)
        copy_row(old, this, values, ahead, lanes)
        add_row(values, vertex, half, old, this, lanes)
        add_row(values, ahead, half, old, 1 - this, lanes)
        vertex = ahead


@jit
def convolve(maps: np.ndarray, taps: tuple, start: int, stop: int, out: np.ndarray) -> None:
    """Separable convolution; outside the image there is nothing.

    Args:
        maps: Float32 (C, H, W).
        taps: Tuple of R + 1 float32: the symmetric kernel from its centre on.
        start, stop: Range of rows of the result.
        out: Filled, float32 (C, H, W).
    """
    channels, height, width = maps.shape
    reach = len(taps) - 1
    nothing = np.zeros(width, np.float32)
    padded = np.zeros(width + 2 * reach, np.float32)
    for c in range(channels):
        for y in range(start, stop):
            padded[reach:reach + width] = maps[c, y] * taps[0]
            for k in range(1, len(taps)):
                above = maps[c, y - k] if y >= k else nothing
                below = maps[c, y + k] if y + k < height else nothing
                for x in range(width):
                    padded[reach + x] += taps[k] * (above[x] + below[x])
            for x in range(width):
                total = taps[0] * padded[reach + x]
                for k in range(1, len(taps)):
                    total += taps[k] * (padded[reach + x - k] + padded[reach + x + k])
                out[c, y, x] = total


@jit
def update_probs(unary: np.ndarray, messages: tuple, norms: np.ndarray, weights: tuple,
                 everything: np.ndarray, start: int, stop: int, probs: np.ndarray) -> None:
    """Softmax over classes of unary scores and messages, for the pixels ``start:stop``.

    The last class gets what all classes together send, less what the others send. All waits for
    memory here, so the probabilities, times the norms, take the place of the messages.

    Args:
        unary: Float32 (C, N), log probabilities.
        messages: Of the smoothness kernel (C - 1, N) and of the appearance kernel
            (G, N, L), channel c at [c // L, :, c % L]. Overwritten by what is filtered next.
        norms: Float32 (2, N), the normalisation of the kernels.
        weights: Their two weights, float32.
        everything: Float32 (N,): the messages of all classes, weighted.
        start, stop: Range of pixels.
        probs: Filled, float32 (C, N). May be empty, then it is not.
    """
    logits = unary[:, start:stop].copy()
    logits[-1] += everything[start:stop]
    _receive(messages, norms, weights, start, logits)
    _softmax(logits)
    if probs.size:
        probs[:, start:stop] = logits
    _send(logits, norms, start, messages)


@jit
def _receive(messages: tuple, norms: np.ndarray, weights: tuple, start: int,
             logits: np.ndarray) -> None:
    """Add the messages for the pixels from ``start`` on; take them from the last class."""
    classes, size = logits.shape
    near, alike = norms[0, start:start + size], norms[1, start:start + size]
    last = logits[classes - 1]
    lanes = messages[1].shape[2]
    message = np.empty(size, np.float32)
    # Small loops over few arrays: those the compiler turns into vector operations.
    for c in range(classes - 1):
        row, lane = messages[0][c, start:start + size], c % lanes
        group = messages[1][c // lanes, start:start + size]
        for i in range(size):
            message[i] = weights[1] * alike[i] * group[i, lane]
        for i in range(size):
            message[i] += weights[0] * near[i] * row[i]
        logits[c] += message
        last -= message


@jit
def _softmax(logits: np.ndarray) -> None:
    """Over the rows, in place."""
    classes, size = logits.shape
    top = logits[classes - 1].copy()
    for c in range(classes - 1):
        np.maximum(top, logits[c], top)
    total = np.zeros(size, np.float32)
    for c in range(classes):
        _exponential(logits[c], top)
        total += logits[c]
    for c in range(classes):
        logits[c] /= total


@jit
def _send(probs: np.ndarray, norms: np.ndarray, start: int, messages: tuple) -> None:
    """Probabilities of the pixels from ``start`` on, times the norms, as the next messages."""
    classes, size = probs.shape
    near, alike = norms[0, start:start + size], norms[1, start:start + size]
    lanes = messages[1].shape[2]
    for c in range(classes - 1):
        row, lane = messages[0][c, start:start + size], c % lanes
        group = messages[1][c // lanes, start:start + size]
        for i in range(size):
            row[i] = probs[c, i] * near[i]
        for i in range(size):
            group[i, lane] = probs[c, i] * alike[i]


@jit
def _exponential(row: np.ndarray, top: np.ndarray) -> None:
    """``row = exp(row - top)`` for row <= top, in a form that becomes vector operations."""
    rounded = np.empty(row.size, np.float32)
    bits = rounded.view(np.int32)
    for i in range(row.size):
        # exp(x) = 2^n 2^f: adding 1.5 * 2^23 leaves n in the last bits
        power = max((row[i] - top[i]) * _LOG2_E, _SMALLEST)
        rounded[i] = power + _ROUND
        row[i] = power - (rounded[i] - _ROUND)
    for i in range(row.size):
        bits[i] = (bits[i] << 23) + _ONE_BITS  # 2^n: n into the exponent
    for i in range(row.size):
        f = row[i]
        value = _C4 + f * (_C5 + f * _C6)
        value = _C1 + f * (_C2 + f * (_C3 + f * value))
        row[i] = (_C0 + f * value) * rounded[i]
