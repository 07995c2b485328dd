"""What an augmentation did to an image, and how to replay it on a feature map.

Coordinates are continuous: pixel ``i`` covers ``[i, i + 1]`` and its centre lies at ``i + 0.5``,
the convention of ``align_corners=False``. In it a resize is a pure scaling, whatever
the sizes are.
"""
from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['AxisAffine', 'sample_features']


class AxisAffine(NamedTuple):
    """Map from an augmented image's coordinates to the original image's, axis by axis.

    ``x_orig = scale_x * x_out + offset_x`` and likewise for y; a flip has a negative scale. The
    class methods describe one step of an augmentation, :meth:`compose` chains them:

    >>> flipped = AxisAffine.identity().compose(AxisAffine.flip((4, 10), 'horizontal'))
    >>> flipped.compose(AxisAffine.crop(top=1, left=2)).apply(0.0, 0.0)
    (8.0, 1.0)
    """

    scale_x: float
    offset_x: float
    scale_y: float
    offset_y: float

    @classmethod
    def identity(cls) -> AxisAffine:
        """Nothing was done to the image."""
        return cls(1.0, 0.0, 1.0, 0.0)

    @classmethod
    def resize(cls, in_size: tuple[int, int], out_size: tuple[int, int]) -> AxisAffine:
        """An image of ``in_size`` (H, W) was resized to ``out_size`` (H, W)."""
        return cls(in_size[1] / out_size[1], 0.0, in_size[0] / out_size[0], 0.0)

    @classmethod
    def flip(cls, size: tuple[int, int], direction: str) -> AxisAffine:
        """An image of ``size`` (H, W) was flipped.

        Raises:
            ValueError: If ``direction`` is none of 'horizontal', 'vertical', 'diagonal'.
        """
        if direction not in ('horizontal', 'vertical', 'diagonal'):
            raise ValueError("Expected `direction` to be 'horizontal', 'vertical' or 'diagonal', "
                             f'but got {direction!r}.')
        x = (1.0, 0.0) if direction == 'vertical' else (-1.0, float(size[1]))
        y = (1.0, 0.0) if direction == 'horizontal' else (-1.0, float(size[0]))
        return cls(*x, *y)

    @classmethod
    def crop(cls, top: int, left: int) -> AxisAffine:
        """A window was cut out whose corner is at row ``top``, column ``left``."""
        return cls(1.0, float(left), 1.0, float(top))

    def compose(self, step: AxisAffine) -> AxisAffine:
        """The map after a further ``step`` was applied to the augmented image."""
        return AxisAffine(self.scale_x * step.scale_x,
                          self.scale_x * step.offset_x + self.offset_x,
                          self.scale_y * step.scale_y,
                          self.scale_y * step.offset_y + self.offset_y)

    def inverse(self) -> AxisAffine:
        """The map from the original image's coordinates to the augmented image's."""
        return AxisAffine(1 / self.scale_x, -self.offset_x / self.scale_x,
                          1 / self.scale_y, -self.offset_y / self.scale_y)

    def apply(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Map coordinates (numbers, arrays or tensors)."""
        return self.scale_x * x + self.offset_x, self.scale_y * y + self.offset_y


def sample_features(features: Tensor, geometry: AxisAffine, out_size: tuple[int, int],
                    grid: tuple[int, int], orig_size: tuple[int, int]) -> Tensor:
    """Read a feature map of the original image on a grid over the augmented image.

    Bilinear; beyond the border of the original image the border's value continues.

    Args:
        features (Tensor): (D, h, w), covering exactly the whole original image.
        geometry (AxisAffine): Map from the augmented to the original image.
        out_size (tuple): (H', W') of the augmented image in pixels.
        grid (tuple): (gh, gw), cells into which the augmented image is divided; the values are read
            at the cells' centres.
        orig_size (tuple): (H, W) of the original image in pixels.

    Returns:
        Tensor: (D, gh, gw) in the dtype of ``features``, at least float32.

    Raises:
        ValueError: If ``features`` is not three-dimensional or a size is not positive.
    """
    if features.ndim != 3 or 0 in features.shape:
        raise ValueError('Expected `features` of shape (D, h, w) with no empty axis, '
                         f'but got {tuple(features.shape)}.')
    for name, size in (('out_size', out_size), ('grid', grid), ('orig_size', orig_size)):
        if len(size) != 2 or min(size) <= 0:
            raise ValueError(f'Expected `{name}` to be two positive numbers, but got {size}.')
    dtype = torch.promote_types(features.dtype, torch.float32)
    x, y = geometry.apply(_centres(out_size[1], grid[1]), _centres(out_size[0], grid[0]))
    y = (2 * y / orig_size[0] - 1).to(features.device, dtype)[:, None].expand(*grid)
    x = (2 * x / orig_size[1] - 1).to(features.device, dtype)[None, :].expand(*grid)
    points = torch.stack([x, y], dim=-1)[None]  # (1, gh, gw, 2)
    return F.grid_sample(features[None].to(dtype), points, mode='bilinear', padding_mode='border',
                         align_corners=False)[0]


def _centres(length: int, cells: int) -> Tensor:
    """Centres of equal cells that cover [0, length], float64 (cells,)."""
    return (torch.arange(cells, dtype=torch.float64) + 0.5) * (length / cells)
