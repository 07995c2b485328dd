"""Building the permutohedral lattice in 5 dimensions (Adams et al., 2010), compiled by numba.

A pixel lies in a simplex of six vertices, one of each *remainder* (coordinates modulo 6). Vertices
of different remainder never coincide, so six tasks build and splat without locks. Along each of
the six directions of the blur the vertices form chains.
"""
from __future__ import annotations

import numpy as np

from .lattice import DIM, DIRECTIONS
from .numba_jit import jit

__all__ = ['embed_pixels', 'find_vertices', 'link_chains', 'sort_keys']

_HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads neighbouring keys
_DOWN = np.float32(1 / DIRECTIONS)
_NOTHING = np.float32(0)
_BLOCK = 256  # pixels that are embedded together
_DIGIT = 8  # bits that one round of the radix sort sorts by


@jit
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


@jit
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


@jit
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


@jit
def _sort_shares(place: np.ndarray, rank: np.ndarray, share: np.ndarray) -> None:
    """``share[rank] = place / 6``: from one to the next it falls by a barycentric weight."""
    share[:] = 0
    for k in range(DIRECTIONS):
        for i in range(DIRECTIONS):
            for p in range(_BLOCK):
                share[k, p] += place[i, p] * _DOWN if rank[i, p] == k else _NOTHING


@jit
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


@jit
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


@jit
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


@jit
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


@jit
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
