"""Mean field of the dense CRF on CPU threads."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from . import numba_kernels as kernels
from . import numba_lattice as building
from .lattice import DIRECTIONS, gaussian_taps, lattice_of
from .params import DenseCRFParams

__all__ = ['BilateralFilter', 'GaussianFilter', 'Threads', 'mean_field']

# Channels that one pass over the lattice takes, unless there is but one
_LANES = 4
# Pixels times classes that one update holds in the cache
_BLOCK = 1 << 15


class Threads:
    """Several threads for one job: the kernels and numpy release the interpreter's lock.

    Args:
        count (int): Number of threads; 1 stays in the caller's.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count) if count > 1 else None

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def each(self, function: Callable[..., Any], tasks: Sequence[tuple]) -> list:
        """``function(*task)`` for every task."""
        if self._pool is None or len(tasks) < 2:
            return [function(*task) for task in tasks]
        return list(self._pool.map(lambda task: function(*task), tasks))

    def ranges(self, size: int) -> list[tuple[int, int]]:
        """``range(size)`` in one piece per thread."""
        edges = [size * i // self.count for i in range(self.count + 1)]
        return list(zip(edges[:-1], edges[1:], strict=True))


class BilateralFilter:
    """Sum over all pixels, weighted by nearness in place and colour, on the lattice.

    Args:
        image (np.ndarray): uint8 (H, W, 3).
        params (DenseCRFParams): Settings.
        threads (Threads): Who works.
    """

    def __init__(self, image: np.ndarray, params: DenseCRFParams, threads: Threads) -> None:
        self.threads = threads
        height, width = image.shape[:2]
        lattice = lattice_of(height, width, params)
        pixels = np.ascontiguousarray(image).reshape(-1, 3)
        keys = np.empty((DIRECTIONS, len(pixels)), np.int64)
        self.weights = np.empty((DIRECTIONS, len(pixels)), np.float32)
        threads.each(building.embed_pixels,
                     [(pixels, width, lattice.scales, lattice.strides, lattice.origin, start, stop,
                       keys, self.weights) for start, stop in threads.ranges(len(pixels))])
        self.vertex = np.empty(keys.shape, np.int32)
        parts = threads.each(
            self._number, [(keys[r], self.vertex[r], lattice.bits) for r in range(DIRECTIONS)])
        self.starts = np.cumsum([0] + [len(part[0]) for part in parts])
        self.vertex += self.starts[:-1, None].astype(np.int32)
        ordered = np.concatenate([part[0] for part in parts])
        order = np.concatenate([part[1] + np.int32(start)
                                for part, start in zip(parts, self.starts[:-1], strict=True)])
        self._values = np.empty(self.starts[-1] * _LANES, np.float32)
        self.chains = threads.each(
            self._link, [(ordered, order, step) for step in lattice.steps])

    @staticmethod
    def _number(keys: np.ndarray, vertex: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
        """Number the vertices of one remainder; their keys sorted, and who they are."""
        table = np.full(1 << int(1.5 * keys.size).bit_length(), -1, np.int32)
        found = np.empty(keys.size, np.int64)
        found = found[:building.find_vertices(keys, table, vertex, found)]
        return building.sort_keys(found, bits)

    def _link(self, keys: np.ndarray, order: np.ndarray, step: int) -> list[np.ndarray]:
        """The chains of one direction, in one piece per thread."""
        following, chains = np.empty((2, len(keys)), np.int32)
        first = np.empty(len(keys), np.bool_)
        chains = chains[:building.link_chains(keys, order, self.starts, step, following, first,
                                              chains)]
        heads = np.flatnonzero(chains < 0)
        cuts = [heads[start] for start, stop in self.threads.ranges(len(heads)) if 0 < start < stop]
        return [part for part in np.split(chains, cuts) if part.size]

    def __call__(self, maps: np.ndarray, out: np.ndarray) -> None:
        """Filter float32 ``maps`` (G, N, L) into ``out`` likewise: G groups of L <= 4 channels.

        A constant map comes out larger by the gain of the blur.
        """
        for group, filtered in zip(maps, out, strict=True):
            self._filter(group, filtered, (0, ) * maps.shape[2])

    def _filter(self, maps: np.ndarray, out: np.ndarray, lanes: tuple[int, ...]) -> None:
        values = self._values[:self.starts[-1] * len(lanes)].reshape(-1, len(lanes))
        each = self.threads.each
        each(self._splat, [(r, maps, values, lanes) for r in range(DIRECTIONS)])
        for chains in self.chains:
            each(kernels.blur_chains, [(part, values, lanes) for part in chains])
        each(kernels.slice_pixels, [(self.vertex, self.weights, values, start, stop, out, lanes)
                                    for start, stop in self.threads.ranges(len(maps))])

    def _splat(self, remainder: int, maps: np.ndarray, values: np.ndarray,
               lanes: tuple[int, ...]) -> None:
        values[self.starts[remainder]:self.starts[remainder + 1]] = 0
        kernels.splat_pixels(self.vertex[remainder], self.weights[remainder], maps, values, lanes)


class GaussianFilter:
    """Sum over all pixels, weighted by nearness in place: a separable convolution.

    Args:
        height (int): Of the image.
        width (int): Of the image.
        sxy (float): Standard deviation, pixels.
        threads (Threads): Who works.
    """

    def __init__(self, height: int, width: int, sxy: float, threads: Threads) -> None:
        self.size = height, width
        self.taps = tuple(gaussian_taps(sxy))
        self.threads = threads

    def __call__(self, maps: np.ndarray, out: np.ndarray) -> None:
        """Filter float32 ``maps`` (C, N) into ``out`` of the same shape."""
        maps, out = maps.reshape(-1, *self.size), out.reshape(-1, *self.size)
        self.threads.each(kernels.convolve, [(maps, self.taps, start, stop, out) for start, stop
                                             in self.threads.ranges(self.size[0])])


def mean_field(image: np.ndarray, scores: np.ndarray, params: DenseCRFParams,
               threads: Threads) -> np.ndarray:
    """Mean field of the dense CRF.

    Args:
        image (np.ndarray): uint8 (H, W, 3).
        scores (np.ndarray): Float32 (C, H, W), positive, sums to 1 over C >= 2 classes.
        params (DenseCRFParams): Settings.
        threads (Threads): Who works.

    Returns:
        np.ndarray: Float32 (C, H, W).
    """
    classes, height, width = scores.shape
    pixels = height * width
    near = GaussianFilter(height, width, params.gaussian_sxy, threads)
    alike = BilateralFilter(image, params, threads)
    weights = np.float32(params.gaussian_compat), np.float32(params.bilateral_compat)
    norms, everything = np.empty((2, 2, pixels), np.float32)
    _normalize(near, norms[0, None], everything[0, None])
    _normalize(alike, norms[1, None, :, None], everything[1, None, :, None])
    # What all classes together send to a pixel never changes, so one of them is not filtered.
    everything = weights[0] * norms[0] * everything[0] + weights[1] * norms[1] * everything[1]
    probs = scores.reshape(classes, pixels)
    unary = np.log(probs)
    # The convolution wants an image a class, the lattice a row of some classes a pixel.
    lanes = 1 if classes == 2 else _LANES
    rows = np.zeros((-(-(classes - 1) // lanes), pixels, lanes), np.float32)
    for c in range(classes - 1):
        np.multiply(probs[c], norms[1], out=rows[c // lanes, :, c % lanes])
    sent = probs[:-1] * norms[0], rows
    messages = np.empty_like(sent[0]), np.zeros_like(sent[1])
    refined = np.empty_like(probs)
    block = -(-_BLOCK // classes)
    for left in reversed(range(params.iterations)):
        near(sent[0], messages[0])
        alike(sent[1], messages[1])
        sent, messages = messages, sent
        out = refined[:, :0 if left else pixels]
        threads.each(kernels.update_probs,
                     [(unary, sent, norms, weights, everything, start, min(start + block, pixels),
                       out) for start in range(0, pixels, block)])
    return refined.reshape(scores.shape)


def _normalize(filtered: Callable[[np.ndarray, np.ndarray], None], norm: np.ndarray,
               total: np.ndarray) -> None:
    """Fill ``norm`` with that of a kernel, ``total`` with what it makes of the norm."""
    filtered(np.ones_like(norm), norm)
    norm[:] = 1 / np.sqrt(norm + 1e-20)
    filtered(norm, total)
