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
           'slice_pixels', 'sort_keys', 'splat_pixels', 'update_probs']

_HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads neighbouring keys
_DOWN = np.float32(1 / DIRECTIONS)
_HALF = np.float32(0.5)
_NOTHING = np.float32(0)
_BLOCK = 256  # pixels that are embedded together
_DIGIT = 8  # bits that one round of the radix sort sorts by
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
    # Block by block and coordinate by coordinate: loops that become vector operations.
    place = np.empty((DIRECTIONS, _BLOCK), np.float32)
    base = np.empty((DIRECTIONS, _BLOCK), np.int32)
    rank = np.empty((DIRECTIONS, _BLOCK), np.int32)
    share = np.empty((DIRECTIONS, _BLOCK), np.float32)
    key = np.empty(_BLOCK, np.int64)
    for first in range(start, stop, _BLOCK):
        last = min(first + _BLOCK, stop)
        _elevate(image[first:last], first % width, first // width, width, scales, place)
        _find_simplex(place, base, rank)
        _sort_shares(place, rank, share)
        key[:] = origin
        for i in range(DIM):
            for p in range(_BLOCK):
                key[p] += base[i, p] * strides[i]
        for r in range(DIRECTIONS):
            keys[r, first:last] = key[:last - first]
            for p in range(last - first):
                weights[r, first + p] = share[DIM - r, p] - share[(DIRECTIONS - r) % DIRECTIONS, p]
            # From one remainder to the next all coordinates grow by 1, but one falls by 5.
            key += strides.sum()
            for i in range(DIM):
                for p in range(_BLOCK):
                    key[p] -= DIRECTIONS * strides[i] if rank[i, p] == DIM - r else 0
        weights[0, first:last] += 1


@_jit
def _elevate(image: np.ndarray, x: int, y: int, width: int, scales: np.ndarray,
             place: np.ndarray) -> None:
    """Fill ``place`` with the pixels from (x, y) on, on the plane of coordinate sum 0."""
    scaled = np.zeros((DIM, _BLOCK), np.float32)
    for p in range(len(image)):
        scaled[0, p] = x * scales[0]
        scaled[1, p] = y * scales[1]
        for i in range(3):
            scaled[2 + i, p] = image[p, i] * scales[2 + i]
        x += 1
        if x == width:
            x, y = 0, y + 1
    total = np.zeros(_BLOCK, np.float32)
    for i in range(DIM, 0, -1):
        for p in range(_BLOCK):
            place[i, p] = total[p] - i * np.float64(scaled[i - 1, p])
        total += scaled[i - 1]
    place[0] = total


@_jit
def _find_simplex(place: np.ndarray, base: np.ndarray, rank: np.ndarray) -> None:
    """Fill ``base`` with the simplex's vertex of remainder 0, ``rank`` with the order of what
    remains of each coordinate, the largest first; ``place`` becomes that remainder."""
    excess = np.zeros(_BLOCK, np.int32)
    rank[:] = 0
    for i in range(DIRECTIONS):  # nearest vertex of remainder 0
        for p in range(_BLOCK):
            rounded = np.rint(place[i, p] * _DOWN)
            base[i, p] = np.int32(rounded) * DIRECTIONS
            excess[p] += np.int32(rounded)
            place[i, p] -= rounded * DIRECTIONS
    for i in range(DIM):
        for j in range(i + 1, DIRECTIONS):
            for p in range(_BLOCK):
                smaller = np.int32(place[i, p] < place[j, p])
                rank[i, p] += smaller
                rank[j, p] += 1 - smaller
    for i in range(DIRECTIONS):  # back onto the plane where rounding left it
        for p in range(_BLOCK):
            moved = rank[i, p] + excess[p]
            turn = DIRECTIONS * (np.int32(moved < 0) - np.int32(moved > DIM))
            rank[i, p] = moved + turn
            base[i, p] += turn
            place[i, p] -= turn


@_jit
def _sort_shares(place: np.ndarray, rank: np.ndarray, share: np.ndarray) -> None:
    """``share[rank] = place / 6``: from one to the next it falls by a barycentric weight."""
    share[:] = 0
    for k in range(DIRECTIONS):
        for i in range(DIRECTIONS):
            for p in range(_BLOCK):
                share[k, p] += place[i, p] * _DOWN if rank[i, p] == k else _NOTHING


@_jit
def find_vertices(keys: np.ndarray, table: np.ndarray, vertex: np.ndarray,
                  found: np.ndarray) -> int:
    """Number the different keys of one remainder in the order of their first pixel.

    Args:
        keys: int64 (N,).
        table: int32 (2^k,) with 2^k > N, all -1. Scratch: an open-addressing hash table.
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
        while table[slot] >= 0 and found[table[slot]] != key:
            slot = (slot + 1) & mask
        if table[slot] < 0:
            table[slot] = count
            found[count] = key
            count += 1
        vertex[i] = table[slot]
    return count


@_jit
def sort_keys(keys: np.ndarray, bits: int) -> tuple:
    """Keys in ascending order, int64 (M,), and where each was, int32 (M,): a radix sort.

    Args:
        keys: int64 (M,), less than 2^bits.
        bits: See :class:`Lattice`.
    """
    rounds = -(-bits // _DIGIT)
    mask = (1 << _DIGIT) - 1
    places = np.zeros((rounds, 1 << _DIGIT), np.int32)  # where the next of a digit goes
    for key in keys:
        for k in range(rounds):
            places[k, (key >> k * _DIGIT) & mask] += 1
    order, other_order = np.arange(keys.size).astype(np.int32), np.empty(keys.size, np.int32)
    keys, other_keys = keys.copy(), np.empty_like(keys)
    for k in range(rounds):
        places[k] = np.cumsum(places[k]) - places[k]
        for i in range(keys.size):
            digit = (keys[i] >> k * _DIGIT) & mask
            place = places[k, digit]
            places[k, digit] += 1
            other_keys[place], other_order[place] = keys[i], order[i]
        keys, other_keys, order, other_order = other_keys, keys, other_order, order
    return keys, order


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
    following[:] = -1
    first[:] = True
    for r in range(0, DIRECTIONS, 2):
        # One step takes 1 off the remainder. Two at a time: each waits for its own comparison.
        i, i_end, j, j_end = starts[r], starts[r + 1], starts[r + 1], starts[r + 2]
        before = (r + DIM) % DIRECTIONS
        k, k_end, m, m_end = starts[before], starts[before + 1], starts[r], starts[r + 1]
        while i < i_end and k < k_end and j < j_end and m < m_end:
            i, k = _match(keys, order, i, k, step, following, first)
            j, m = _match(keys, order, j, m, step, following, first)
        while i < i_end and k < k_end:
            i, k = _match(keys, order, i, k, step, following, first)
        while j < j_end and m < m_end:
            j, m = _match(keys, order, j, m, step, following, first)
    # No branch where chance decides; the heads of chains wait where the chains will be.
    heads = 0
    for v in range(following.size):
        chains[heads] = v
        heads += np.int64(first[v] and following[v] >= 0)
    return _walk(chains[:heads].copy(), following, chains)


@_jit
def _match(keys: np.ndarray, order: np.ndarray, i: int, j: int, step: int,
           following: np.ndarray, first: np.ndarray) -> tuple:
    """One step of a merge: link the vertices if the keys are one step apart, go on after the
    lesser key."""
    key, other = keys[i] + step, keys[j]
    vertex, ahead = order[i], order[j]
    # What a later step finds takes the place of this, so there is no branch.
    following[vertex] = ahead if key == other else -1
    first[ahead] = key != other
    return i + np.int64(key <= other), j + np.int64(other <= key)


@_jit
def _walk(heads: np.ndarray, following: np.ndarray, chains: np.ndarray) -> int:
    used = 0
    for vertex in heads:
        chains[used] = ~vertex
        used += 1
        vertex = following[vertex]
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
