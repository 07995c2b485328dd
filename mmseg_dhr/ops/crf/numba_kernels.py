"""Permutohedral lattice in 5 dimensions (Adams et al., 2010), compiled for the CPU by numba.

A pixel lies in a simplex of six vertices, one of each *remainder* (coordinates modulo 6). Vertices
of different remainder never coincide, so six tasks build and splat without locks. Along each of
the six directions of the blur the vertices form chains, which are blurred in place.
"""
from __future__ import annotations

import numpy as np
from numba import njit

from .lattice import DIM, DIRECTIONS
from .numba_vectors import add_row, copy_row, gather_rows

__all__ = ['blur_chains', 'convolve', 'embed_pixels', 'find_vertices', 'link_chains',
           'slice_pixels', 'splat_pixels', 'update_probs']

_EMPTY = np.int64(-1)
_HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads neighbouring keys
_DOWN = np.float32(1 / DIRECTIONS)
_HALF = np.float32(0.5)
_ALL = (0, ) * DIRECTIONS
_LOG2_E = np.float32(1.4426950408889634)
_SMALLEST = np.float32(-120)  # 2^-120 is nothing
_ROUND = np.float32(1.5 * 2**23)
_ONE_BITS = 127 << 23  # of 1.0
# 2^f for f in [-0.5, 0.5]
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = np.polynomial.Chebyshev.interpolate(
    np.exp2, 6, domain=(-0.5, 0.5)).convert(kind=np.polynomial.Polynomial).coef.astype(np.float32)
# Without the interpreter's lock, so that threads run in parallel; compiled once a machine.
_jit = njit(nogil=True, cache=True)


@_jit
def embed_pixels(image: np.ndarray, width: int, scales: np.ndarray, strides: np.ndarray,
                 origin: int, start: int, stop: int, keys: np.ndarray,
                 weights: np.ndarray) -> None:
    """Simplex and barycentric weights of the pixels ``start:stop`` of a flattened image.

    Args:
        image: uint8 (N, 3) with N = height * width.
        width: Of the image.
        scales, strides, origin: See :class:`Lattice`.
        start, stop: Range of pixels.
        keys: Filled, int64 (6, N): packed coordinates of the vertex of each remainder.
        weights: Filled, float32 (6, N): its barycentric weight.
    """
    place = np.empty(DIRECTIONS, np.float32)
    base = np.empty(DIRECTIONS, np.int64)
    rank = np.empty(DIRECTIONS, np.int64)
    bary = np.empty(DIRECTIONS + 1, np.float32)
    scaled = np.empty(DIM, np.float32)
    for pixel in range(start, stop):
        scaled[0] = (pixel % width) * scales[0]
        scaled[1] = (pixel // width) * scales[1]
        for i in range(3):
            scaled[2 + i] = image[pixel, i] * scales[2 + i]
        total = np.float32(0)
        for i in range(DIM, 0, -1):  # onto the plane of coordinate sum 0
            place[i] = total - i * scaled[i - 1]
            total += scaled[i - 1]
        place[0] = total
        excess = np.int64(0)
        for i in range(DIRECTIONS):  # nearest vertex of remainder 0
            rounded = np.int64(np.rint(place[i] * _DOWN))
            base[i] = rounded * DIRECTIONS
            excess += rounded
            rank[i] = 0
        for i in range(DIM):  # no branches: which way they go is chance
            for j in range(i + 1, DIRECTIONS):
                smaller = np.int64(place[i] - base[i] < place[j] - base[j])
                rank[i] += smaller
                rank[j] += 1 - smaller
        for i in range(DIRECTIONS):  # back onto the plane where rounding left it
            rank[i] += excess
            turn = DIRECTIONS * (np.int64(rank[i] < 0) - np.int64(rank[i] > DIM))
            rank[i] += turn
            base[i] += turn
        for i in range(DIRECTIONS + 1):
            bary[i] = 0
        for i in range(DIRECTIONS):
            share = (place[i] - base[i]) * _DOWN
            bary[DIM - rank[i]] += share
            bary[DIRECTIONS - rank[i]] -= share
        bary[0] += 1 + bary[DIRECTIONS]
        key = origin
        for i in range(DIM):
            key += base[i] * strides[i]
        for r in range(DIRECTIONS):
            # From one remainder to the next all coordinates grow by 1, but one falls by 5.
            keys[r, pixel] = key
            weights[r, pixel] = bary[r]
            for i in range(DIM):
                key += strides[i] if rank[i] != DIM - r else -DIM * strides[i]


@_jit
def find_vertices(keys: np.ndarray, table: np.ndarray, ids: np.ndarray, vertex: np.ndarray,
                  found: np.ndarray) -> int:
    """Number the different keys of one remainder in the order of their first pixel.

    Args:
        keys: int64 (N,).
        table: int64 (2^k,) with 2^k > N, all -1. Scratch: an open-addressing hash table.
        ids: int32 (2^k,). Scratch.
        vertex: Filled, int32 (N,): number of each pixel's vertex.
        found: Filled, int64 (N,): key of each vertex, as many as there are.

    Returns:
        int: Number of vertices.
    """
    mask = table.size - 1
    shift = np.uint64(64)
    size = table.size
    while size > 1:
        size >>= 1
        shift -= np.uint64(1)
    count = 0
    for i in range(keys.size):
        key = keys[i]
        slot = np.int64((np.uint64(key) * _HASH) >> shift)
        while table[slot] != key and table[slot] != _EMPTY:
            slot = (slot + 1) & mask
        if table[slot] == _EMPTY:
            table[slot] = key
            ids[slot] = count
            found[count] = key
            count += 1
        vertex[i] = ids[slot]
    return count


@_jit
def link_chains(keys: np.ndarray, order: np.ndarray, starts: np.ndarray, step: int,
                following: np.ndarray, first: np.ndarray, chains: np.ndarray) -> int:
    """The chains of vertices along one direction.

    Args:
        keys: int64 (M,), the keys of remainder 0 sorted, then those of remainder 1, ...
        order: int32 (M,), the vertex behind each of them.
        starts: int64 (7,), where each remainder starts in ``keys``.
        step: What one step in this direction adds to a key.
        following: int32 (M,). Scratch: the next vertex, or -1.
        first: bool (M,). Scratch: nothing comes before this vertex.
        chains: Filled, int32 (M,): vertices chain by chain, the first of each as ``~vertex``.
            Chains of one vertex, which a blur leaves alone, are not there.

    Returns:
        int: How much of ``chains`` is used.
    """
    first[:] = True
    for r in range(DIRECTIONS):
        ahead = (r + DIM) % DIRECTIONS  # one step takes 1 off the remainder
        other, end = starts[ahead], starts[ahead + 1]
        for i in range(starts[r], starts[r + 1]):
            key = keys[i] + step
            while other < end and keys[other] < key:
                other += 1
            if other < end and keys[other] == key:
                following[order[i]] = order[other]
                first[order[other]] = False
            else:
                following[order[i]] = -1
    used = 0
    for v in range(following.size):
        if first[v] and following[v] >= 0:
            chains[used] = ~v
            used += 1
            vertex = following[v]
            while vertex >= 0:
                chains[used] = vertex
                used += 1
                vertex = following[vertex]
    return used


# `lanes` is a tuple whose length the compiler knows: how many channels a call takes. Pixels and
# vertices are rows, so that these channels are neighbours: one vector operation for all of them.


@_jit
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


@_jit
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


@_jit
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


@_jit
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


@_jit
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


@_jit
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


@_jit
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


@_jit
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


@_jit
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
