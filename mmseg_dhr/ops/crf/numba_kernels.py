"""Permutohedral lattice in 5 dimensions (Adams et al., 2010), compiled for the CPU by numba.

A pixel lies in a simplex of six vertices, one of
each *remainder* (coordinates modulo 6). Vertices of different remainder never coincide, so six
tasks build and splat without locks. Along one of the six directions of the blur the vertices form
chains; a chain is blurred in place, one read and one write a vertex.
"""
from __future__ import annotations

import numpy as np
from numba import njit

from .lattice import DIM, DIRECTIONS, GAIN

__all__ = ['blur_chains', 'convolve_columns', 'convolve_rows', 'embed_pixels', 'find_vertices',
           'link_chains', 'slice_pixels', 'splat_remainder']

_EMPTY = np.int64(-1)
_HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads neighbouring keys
_DOWN = np.float32(1 / DIRECTIONS)
_HALF = np.float32(0.5)
_GAIN = np.float32(GAIN)
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
        for i in range(DIM):
            for j in range(i + 1, DIRECTIONS):
                if place[i] - base[i] < place[j] - base[j]:
                    rank[i] += 1
                else:
                    rank[j] += 1
        for i in range(DIRECTIONS):  # back onto the plane where rounding left it
            rank[i] += excess
            if rank[i] < 0:
                rank[i] += DIRECTIONS
                base[i] += DIRECTIONS
            elif rank[i] > DIM:
                rank[i] -= DIRECTIONS
                base[i] -= DIRECTIONS
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
        chains: Filled, int32 (M,): vertices chain by chain, the last of each as ``~vertex``.
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
            vertex = v
            while following[vertex] >= 0:
                chains[used] = vertex
                used += 1
                vertex = following[vertex]
            chains[used] = ~vertex
            used += 1
    return used


# `lanes` is a tuple whose length, the number of channels, the compiler knows and unrolls.


@_jit
def splat_remainder(vertex: np.ndarray, weights: np.ndarray, maps: np.ndarray, values: np.ndarray,
                    lanes: tuple) -> None:
    """Add pixels to their vertices of one remainder.

    Args:
        vertex: int32 (N,).
        weights: Float32 (N,).
        maps: Float32 (C, N).
        values: Float32 (M, C), set to 0 for the vertices of this remainder before.
        lanes: Tuple of C elements.
    """
    for i in range(vertex.size):
        for c in range(len(lanes)):
            values[vertex[i], c] += weights[i] * maps[c, i]


@_jit
def slice_pixels(vertex: np.ndarray, weights: np.ndarray, values: np.ndarray, start: int,
                 stop: int, out: np.ndarray, lanes: tuple) -> None:
    """Read the pixels ``start:stop`` back from all their vertices.

    Args:
        vertex: int32 (6, N).
        weights: Float32 (6, N).
        values: Float32 (M, C).
        start, stop: Range of pixels.
        out: Filled, float32 (C, N).
        lanes: Tuple of C elements.
    """
    for i in range(start, stop):
        for c in range(len(lanes)):
            total = np.float32(0)
            for r in range(DIRECTIONS):
                total += weights[r, i] * values[vertex[r, i], c]
            out[c, i] = total * _GAIN


@_jit
def blur_chains(chains: np.ndarray, values: np.ndarray, lanes: tuple) -> None:
    """``value += half of both neighbours`` along the chains of one direction, in place.

    Args:
        chains: int32 (L,) of :func:`link_chains`, whole chains.
        values: Float32 (M, C).
        lanes: Tuple of C elements.
    """
    before = np.empty(len(lanes), np.float32)
    i = 0
    while i < chains.size:
        vertex = chains[i]
        before[:] = 0
        while vertex >= 0:
            i += 1
            following = chains[i]
            ahead = ~following if following < 0 else following
            for c in range(len(lanes)):
                value = values[vertex, c]
                values[vertex, c] = value + _HALF * (before[c] + values[ahead, c])
                before[c] = value
            vertex = following
        for c in range(len(lanes)):
            values[~vertex, c] += _HALF * before[c]
        i += 1


@_jit
def convolve_columns(maps: np.ndarray, taps: np.ndarray, start: int, stop: int,
                     out: np.ndarray) -> None:
    """Convolve along y; outside the image there is nothing.

    Args:
        maps: Float32 (C, H, W).
        taps: Float32 (R + 1,): the symmetric kernel from its centre on.
        start, stop: Range of rows of the result.
        out: Filled, float32 (C, H, W).
    """
    height = maps.shape[1]
    for c in range(maps.shape[0]):
        for y in range(start, stop):
            row = out[c, y]
            row[:] = 0
            for near in range(max(0, y - taps.size + 1), min(height, y + taps.size)):
                tap, source = taps[abs(near - y)], maps[c, near]
                for x in range(row.size):
                    row[x] += tap * source[x]


@_jit
def convolve_rows(maps: np.ndarray, taps: np.ndarray, start: int, stop: int,
                  out: np.ndarray) -> None:
    """Convolve along x; see :func:`convolve_columns`."""
    width = maps.shape[2]
    for c in range(maps.shape[0]):
        for y in range(start, stop):
            row, source = out[c, y], maps[c, y]
            for x in range(width):
                row[x] = taps[0] * source[x]
            for k in range(1, min(taps.size, width)):
                for x in range(width - k):
                    row[x] += taps[k] * source[x + k]
                for x in range(k, width):
                    row[x] += taps[k] * source[x - k]
