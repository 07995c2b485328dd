"""Geometry of the permutohedral lattice (Adams et al., 2010) in (x, y, R, G, B)."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .params import DenseCRFParams

__all__ = ['DIM', 'DIRECTIONS', 'GAIN', 'Lattice', 'gaussian_taps', 'lattice_of']

DIM = 5
DIRECTIONS = DIM + 1
# What the blur multiplies a constant by, undone when pixels are read back
GAIN = 1 / (1 + 2.0**-DIM)


class Lattice(NamedTuple):
    """How pixels of an image size fall on the lattice, and how vertices are packed into an int64.

    Attributes:
        scales: Float32 (5,): lattice units of one pixel in x and y, one grey level in R, G and B.
        strides: int64 (5,): what one step of each of the first five coordinates (the sixth
            follows from them) adds to a key.
        origin: Key of coordinates 0, such that no key is negative.
        steps: int64 (6,): what one step of the blur in each direction adds to a key.
        bits: Bits that a key needs.
    """
    scales: np.ndarray
    strides: np.ndarray
    origin: int
    steps: np.ndarray
    bits: int


def lattice_of(height: int, width: int, params: DenseCRFParams) -> Lattice:
    """The lattice of the appearance kernel.

    Raises:
        ValueError: If the standard deviations are so small that a vertex does not fit 63 bits.
    """
    deviations = [params.bilateral_sxy] * 2 + [params.bilateral_srgb] * 3
    index = np.arange(1, DIM + 1)
    scales = DIRECTIONS * np.sqrt(2 / 3) / np.sqrt(index * (index + 1)) / deviations
    reach = scales * [width, height, 255, 255, 255]
    # Coordinate i is the sum of the later features minus i times feature i - 1; a vertex lies
    # within 6 of its pixel and a neighbour within 6 of the vertex.
    low = np.floor([-i * (reach[i - 1] if i else 0) for i in range(DIM)]) - 2 * DIRECTIONS
    high = np.ceil([reach[i:].sum() for i in range(DIM)]) + 2 * DIRECTIONS
    extent = (high - low + 1).astype(object)  # Python integers do not overflow
    strides = [int(np.prod(extent[:i], initial=1)) for i in range(DIM)]
    bits = int(np.prod(extent)).bit_length()
    if bits > 63:
        raise ValueError(
            f'The lattice of bilateral_sxy={params.bilateral_sxy:g}, bilateral_srgb='
            f'{params.bilateral_srgb:g} on {height}x{width} pixels needs {bits} bits a vertex and '
            'there are 63: raise the standard deviations.')
    packed = np.array(strides, np.int64)
    steps = np.array([DIRECTIONS * (packed[i] if i < DIM else 0) - packed.sum()
                      for i in range(DIRECTIONS)], np.int64)
    origin = -sum(int(a) * b for a, b in zip(low, strides, strict=True))
    return Lattice(scales.astype(np.float32), packed, origin, steps, bits)


def gaussian_taps(sxy: float) -> np.ndarray:
    """One half of the smoothness kernel, from its centre to four standard deviations, float32."""
    return np.exp(-0.5 * (np.arange(int(np.ceil(4 * sxy)) + 1) / sxy)**2).astype(np.float32)
