"""Mean field of the dense CRF with PyTorch, over a batch of images at once, on any device."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .lattice import DIM, DIRECTIONS, GAIN, Lattice, gaussian_taps, lattice_of
from .params import DenseCRFParams

__all__ = ['BilateralFilter', 'mean_field']


class BilateralFilter:
    """Sum over all pixels of an image, weighted by nearness in place and colour, on the lattice.

    The vertices of all images stand in one sorted list; nothing waits for the device after that.

    Args:
        images (Tensor): RGB 0..255, (B, 3, H, W).
        pixels (Tensor): Indices (P,) of the pixels that take part in a flattened (B, H, W).
        params (DenseCRFParams): Settings.
    """

    def __init__(self, images: Tensor, pixels: Tensor, params: DenseCRFParams) -> None:
        height, width = images.shape[-2:]
        lattice = lattice_of(height, width, params)
        if lattice.bits + len(images).bit_length() > 63:
            raise ValueError(f'The lattices of {len(images)} images do not fit 63 bits.')
        places = torch.stack([pixels % width, pixels // width % height], 1)
        features = torch.cat([places.float(), _to_list(images, pixels).float()], 1)
        keys, self.weights = _simplices(features, lattice)
        keys += (pixels // (height * width) << lattice.bits)[:, None]
        vertices, self.vertex = torch.unique(keys, return_inverse=True)  # (M,), (P, 6)
        self.size = len(vertices)
        self.neighbours = [_neighbours(vertices, int(step)) for step in lattice.steps]

    def __call__(self, maps: Tensor) -> Tensor:
        """Filter float32 maps (P, C)."""
        # One row more, always 0, stands for the neighbours that do not exist.
        values = maps.new_zeros(self.size + 1, maps.shape[1])
        for r in range(DIRECTIONS):
            values.index_add_(0, self.vertex[:, r], self.weights[:, r, None] * maps)
        for before, after in self.neighbours:
            both = values[before]
            both += values[after]
            values[:-1].add_(both, alpha=0.5)
        out = torch.zeros_like(maps)
        for r in range(DIRECTIONS):
            out.addcmul_(self.weights[:, r, None], values[self.vertex[:, r]])
        return out * GAIN


def _simplices(features: Tensor, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """Packed vertices (P, 6) and barycentric weights (P, 6) of pixels (P, 5)."""
    scaled = features * torch.from_numpy(lattice.scales).to(features.device)
    # On the plane of coordinate sum 0: the sum of the later features minus i times the one before
    later = F.pad(scaled.flip(1).cumsum(1).flip(1), (0, 1))
    index = torch.arange(DIRECTIONS, device=features.device)
    place = later - index * F.pad(scaled, (1, 0))
    base = (place / DIRECTIONS).round()
    excess = base.sum(1, keepdim=True).long()
    base = base.long() * DIRECTIONS
    offset = place - base
    rank = excess.repeat(1, DIRECTIONS)
    for i in range(DIM):
        for j in range(i + 1, DIRECTIONS):
            smaller = offset[:, i] < offset[:, j]
            rank[:, i] += smaller
            rank[:, j] += ~smaller
    # Rounding may have left the plane
    turn = (rank < 0).long() - (rank > DIM).long()
    rank, base = rank + DIRECTIONS * turn, base + DIRECTIONS * turn
    share = (place - base) / DIRECTIONS
    weights = features.new_zeros(len(features), DIRECTIONS + 1)
    weights.scatter_add_(1, DIM - rank, share).scatter_add_(1, DIRECTIONS - rank, -share)
    weights[:, 0] += 1 + weights[:, DIRECTIONS]
    # The vertex of remainder r: r more in every coordinate, 6 less where the rank is above 5 - r
    strides = torch.from_numpy(lattice.strides).to(features.device)
    first = (base[:, :DIM] * strides).sum(1, keepdim=True) + lattice.origin
    below = torch.zeros_like(weights[:, :DIRECTIONS], dtype=torch.long)
    below.scatter_add_(1, DIM - rank[:, :DIM], strides.expand(len(features), -1))
    fallen = F.pad(below.cumsum(1)[:, :-1], (1, 0))
    return first + index * strides.sum() - DIRECTIONS * fallen, weights[:, :DIRECTIONS]


def _neighbours(vertices: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Of each vertex, those one step before and after it; M where there is none."""
    found = []
    for wanted in (vertices - step, vertices + step):
        index = torch.searchsorted(vertices, wanted).clamp_max(len(vertices) - 1)
        found.append(torch.where(vertices[index] == wanted, index, len(vertices)))
    return found[0], found[1]


def _gaussian(maps: Tensor, taps: Tensor) -> Tensor:
    """Separable convolution of (B, C, H, W); outside there is nothing."""
    kernel = torch.cat([taps.flip(0)[:-1], taps])
    reach, channels = len(taps) - 1, maps.shape[1]
    weight = kernel.expand(channels, 1, 1, -1)
    maps = F.conv2d(maps, weight, padding=(0, reach), groups=channels)
    return F.conv2d(maps, weight.transpose(2, 3), padding=(reach, 0), groups=channels)


def mean_field(images: Tensor, scores: Tensor, class_mask: Tensor,
               sizes: Sequence[tuple[int, int]], params: DenseCRFParams) -> Tensor:
    """Mean field of the dense CRF.

    Args:
        images (Tensor): RGB 0..255, (B, 3, H, W).
        scores (Tensor): Float32 (B, C, H, W); sums to 1 over the classes of an image, positive.
        class_mask (Tensor): Bool (B, C); every image has a class.
        sizes (Sequence[tuple]): (height, width) of each image's valid part.
        params (DenseCRFParams): Settings.

    Returns:
        Tensor: Float32 (B, C, H, W); 0 outside the valid part and the used classes.
    """
    pixels = _valid_pixels(images, sizes)
    bilateral = BilateralFilter(images, pixels, params)
    taps = torch.from_numpy(gaussian_taps(params.gaussian_sxy)).to(images.device)
    grid = (len(images), *images.shape[-2:])

    def gaussian(maps: Tensor) -> Tensor:
        return _to_list(_gaussian(_to_grid(maps, pixels, grid), taps), pixels)

    probs = _to_list(scores, pixels)  # (P, C)
    terms = []
    for term, weight in ((gaussian, params.gaussian_compat),
                         (bilateral, params.bilateral_compat)):
        terms.append((term, (term(torch.ones_like(probs[:, :1])) + 1e-20).rsqrt(), weight))
    image = pixels // (grid[1] * grid[2])
    unary = probs.log().masked_fill(~class_mask[image], float('-inf'))
    for _ in range(params.iterations):
        logits = unary
        for term, norm, weight in terms:
            logits = logits + weight * norm * term(norm * probs)
        probs = logits.softmax(1)
    return _to_grid(probs, pixels, grid)


def _valid_pixels(images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Indices (P,) of the pixels that are no padding in a flattened (B, H, W)."""
    places = torch.arange(images[:, 0].numel(), device=images.device)
    # Not by a mask: the host would wait to learn how many there are.
    return torch.cat([
        place[:height, :width].flatten()
        for place, (height, width) in zip(places.view(-1, *images.shape[-2:]), sizes, strict=True)
    ])


def _to_list(maps: Tensor, pixels: Tensor) -> Tensor:
    """(B, C, H, W) at those pixels: (P, C)."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])[pixels]


def _to_grid(maps: Tensor, pixels: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """The way back; 0 elsewhere."""
    whole = maps.new_zeros(grid[0] * grid[1] * grid[2], maps.shape[1])
    return whole.index_copy_(0, pixels, maps).view(*grid, -1).permute(0, 3, 1, 2)
