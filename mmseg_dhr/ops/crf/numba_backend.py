"""Mean field of the dense CRF on CPU threads."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from . import numba_kernels as kernels
from .lattice import DIRECTIONS, gaussian_taps, lattice_of
from .params import DenseCRFParams

__all__ = ['BilateralFilter', 'GaussianFilter', 'Threads', 'mean_field']

# Channels that one pass over the lattice takes: more do not stay in the cache.
_WIDTHS = (2, 1)
# Pixels whose channels one update holds in the cache
_BLOCK = 1 << 14


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
        threads.each(kernels.embed_pixels,
                     [(pixels, width, lattice.scales, lattice.strides, lattice.origin, start, stop,
                       keys, self.weights) for start, stop in threads.ranges(len(pixels))])
        self.vertex = np.empty(keys.shape, np.int32)
        parts = threads.each(self._number, [(keys[r], self.vertex[r]) for r in range(DIRECTIONS)])
        self.starts = np.cumsum([0] + [len(part[0]) for part in parts])
        self.vertex += self.starts[:-1, None].astype(np.int32)
        ordered = np.concatenate([part[0] for part in parts])
        order = np.concatenate([part[1] + start
                                for part, start in zip(parts, self.starts[:-1], strict=True)])
        self.values = np.empty((self.starts[-1], _WIDTHS[0]), np.float32)
        self.chains = threads.each(
            self._link, [(ordered, order.astype(np.int32), step) for step in lattice.steps])

    @staticmethod
    def _number(keys: np.ndarray, vertex: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number the vertices of one remainder; their keys sorted, and who they are."""
        table = np.full(1 << int(1.5 * keys.size).bit_length(), -1, np.int64)
        ids = np.empty(table.size, np.int32)
        found = np.empty(keys.size, np.int64)
        found = found[:kernels.find_vertices(keys, table, ids, vertex, found)]
        order = np.argsort(found)
        return found[order], order

    def _link(self, keys: np.ndarray, order: np.ndarray, step: int) -> list[np.ndarray]:
        """The chains of one direction, in one piece per thread."""
        following, chains = np.empty((2, len(keys)), np.int32)
        first = np.empty(len(keys), np.bool_)
        chains = chains[:kernels.link_chains(keys, order, self.starts, step, following, first,
                                             chains)]
        ends = np.flatnonzero(chains < 0) + 1
        cuts = [ends[stop - 1] for _, stop in self.threads.ranges(len(ends)) if stop]
        return [part for part in np.split(chains, cuts) if part.size]

    def __call__(self, maps: np.ndarray, out: np.ndarray) -> None:
        """Filter float32 ``maps`` (C, N) into ``out`` of the same shape."""
        done = 0
        for width in _WIDTHS:
            while len(maps) - done >= width:
                self._filter(maps[done:done + width], out[done:done + width])
                done += width

    def _filter(self, maps: np.ndarray, out: np.ndarray) -> None:
        lanes = (0, ) * len(maps)
        values = self.values.reshape(-1)[:self.starts[-1] * len(maps)].reshape(-1, len(maps))
        each = self.threads.each
        each(self._splat, [(r, maps, values, lanes) for r in range(DIRECTIONS)])
        for chains in self.chains:
            each(kernels.blur_chains, [(part, values, lanes) for part in chains])
        each(kernels.slice_pixels, [(self.vertex, self.weights, values, start, stop, out, lanes)
                                    for start, stop in self.threads.ranges(maps.shape[1])])

    def _splat(self, remainder: int, maps: np.ndarray, values: np.ndarray,
               lanes: tuple[int, ...]) -> None:
        values[self.starts[remainder]:self.starts[remainder + 1]] = 0
        kernels.splat_remainder(self.vertex[remainder], self.weights[remainder], maps, values,
                                lanes)


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
        self.taps = gaussian_taps(sxy)
        self.threads = threads

    def __call__(self, maps: np.ndarray, out: np.ndarray) -> None:
        """Filter float32 ``maps`` (C, N) into ``out`` of the same shape."""
        maps, out = maps.reshape(-1, *self.size), out.reshape(-1, *self.size)
        between = np.empty_like(maps)
        for kernel, source, target in ((kernels.convolve_columns, maps, between),
                                       (kernels.convolve_rows, between, out)):
            self.threads.each(kernel, [(source, self.taps, start, stop, target)
                                       for start, stop in self.threads.ranges(self.size[0])])


Filter = Callable[[np.ndarray, np.ndarray], None]


class _Kernel:
    """One pairwise term: a filter, normalised symmetrically, and its weight."""

    def __init__(self, filtered: Filter, pixels: int, weight: float) -> None:
        self.filter = filtered
        ones, total = np.ones((1, pixels), np.float32), np.empty((1, pixels), np.float32)
        filtered(ones, total)
        self.norm = 1 / np.sqrt(total + 1e-20)
        filtered(self.norm, total)
        self.weight = weight * self.norm
        # What all classes together send to a pixel never changes, so one need not be filtered.
        self.everything = self.weight * total


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
    probs = scores.reshape(classes, -1).copy()
    unary = np.log(probs)
    terms = [_Kernel(GaussianFilter(height, width, params.gaussian_sxy, threads), height * width,
                     params.gaussian_compat),
             _Kernel(BilateralFilter(image, params, threads), height * width,
                     params.bilateral_compat)]
    messages = np.empty((2, classes - 1, height * width), np.float32)
    sent = np.empty_like(messages[0])
    blocks = [(unary, terms, messages, probs, slice(start, start + _BLOCK))
              for start in range(0, height * width, _BLOCK)]
    for _ in range(params.iterations):
        for term, message in zip(terms, messages, strict=True):
            np.multiply(probs[:-1], term.norm, out=sent)
            term.filter(sent, message)
        threads.each(_update, blocks)
    return probs.reshape(scores.shape)


def _update(unary: np.ndarray, terms: Sequence[_Kernel], messages: np.ndarray, probs: np.ndarray,
            part: slice) -> None:
    """Softmax of the unary scores and the messages for some pixels."""
    logits = unary[:, part].copy()
    for term, message in zip(terms, messages, strict=True):
        weighted = term.weight[:, part] * message[:, part]
        logits[:-1] += weighted
        logits[-1:] += term.everything[:, part] - weighted.sum(0, keepdims=True)
    logits -= logits.max(0, keepdims=True)
    np.exp(logits, out=logits)
    np.divide(logits, logits.sum(0, keepdims=True), out=probs[:, part])
