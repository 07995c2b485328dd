"""From a backbone's features to affinities of neighbouring cells."""
from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...ops import affinity_from_boundary, affinity_from_features

__all__ = ['Affinity', 'BaseAffinityHead', 'BoundaryAffinityHead', 'FeatureAffinityHead']


class Affinity(NamedTuple):
    """What a random walk needs of a batch.

    Attributes:
        values: (B, K, h, w) in [0, 1], one map per offset of
            :func:`~mmseg_dhr.ops.neighbour_offsets`.
        sources: (B, 1, h, w) in [0, 1]: how much of its own score each cell brings into the walk.
    """
    values: Tensor
    sources: Tensor


class BaseAffinityHead(BaseModule, metaclass=ABCMeta):
    """Reads some levels of a backbone, one 1x1 convolution each, on one common grid.

    Args:
        in_channels (Sequence[int]): Channels of the levels that are read.
        channels (Sequence[int]): Channels that their convolutions give.
        in_indices (Sequence[int], optional): Which of the backbone's outputs these are. Defaults
            to the last ones.
        grid_index (int): Which of the levels read has the grid; the others are resized to it.
            Defaults to 0, the finest of a usual backbone.
        norm_cfg (dict, optional): Norm of the convolutions. Defaults to None.
        act_cfg (dict): Their activation.
        init_cfg (dict, optional): Initialisation.

    Raises:
        ValueError: If the lengths differ or there is no level.
    """

    def __init__(self, in_channels: Sequence[int], channels: Sequence[int],
                 in_indices: Sequence[int] | None = None, grid_index: int = 0,
                 norm_cfg: dict | None = None, act_cfg: dict = dict(type='ReLU'),
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        indices = range(-len(in_channels), 0) if in_indices is None else in_indices
        if not len(in_channels) == len(channels) == len(indices) or not channels:
            raise ValueError('Expected in_channels, channels and in_indices of one length above 0, '
                             f'but got {list(in_channels)}, {list(channels)} and {list(indices)}.')
        self.in_indices = tuple(indices)
        self.grid_index = grid_index
        self.taps = nn.ModuleList(
            ConvModule(i, o, 1, norm_cfg=norm_cfg, act_cfg=act_cfg)
            for i, o in zip(in_channels, channels, strict=True))
        self.tap_channels = sum(channels)

    def read(self, features: Sequence[Tensor]) -> Tensor:
        """The levels' convolutions on one grid, (B, sum of channels, h, w)."""
        levels = [features[i] for i in self.in_indices]
        size = levels[self.grid_index].shape[-2:]
        maps = [tap(level) for tap, level in zip(self.taps, levels, strict=True)]
        return torch.cat([m if m.shape[-2:] == size else
                          F.interpolate(m, size=size, mode='bilinear', align_corners=False)
                          for m in maps], 1)

    @abstractmethod
    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The map that affinities are computed from, (B, D, h, w)."""

    @abstractmethod
    def affinity(self, output: Tensor, radius: int = 5) -> Affinity:
        """Affinities within a radius, from what :meth:`forward` gives."""


@MODELS.register_module()
class FeatureAffinityHead(BaseAffinityHead):
    """PSA's AffinityNet (Ahn & Kwak, CVPR 2018): ``a = exp(-mean |f_i - f_j|)``.

    Each tap is reduced by a 1x1 convolution with ELU; another one on their concatenation gives the
    features f.

    Args:
        in_channels (Sequence[int]): Defaults to those of Wide-ResNet-38, (512, 1024, 4096).
        channels (Sequence[int]): Defaults to (64, 128, 256).
        act_cfg (dict): Activation of all convolutions. Defaults to ELU.
        **kwargs: Of :class:`BaseAffinityHead`.
    """

    def __init__(self, in_channels: Sequence[int] = (512, 1024, 4096),
                 channels: Sequence[int] = (64, 128, 256), act_cfg: dict = dict(type='ELU'),
                 **kwargs: Any) -> None:
        super().__init__(in_channels, channels, act_cfg=act_cfg, **kwargs)
        self.fuse = ConvModule(self.tap_channels, self.tap_channels, 1, act_cfg=act_cfg)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features f, (B, D, h, w)."""
        return self.fuse(self.read(features))

    def affinity(self, output: Tensor, radius: int = 5) -> Affinity:
        """Affinities of neighbours; every cell brings all of its score."""
        return Affinity(affinity_from_features(output, radius),
                        output.new_ones((len(output), 1, *output.shape[-2:])))


@MODELS.register_module()
class BoundaryAffinityHead(BaseAffinityHead):
    """IRNet's class boundaries (Ahn et al., CVPR 2019): ``a = 1 - max boundary on the way``.

    One 1x1 convolution with group norm and ReLU per level, one on their concatenation, a sigmoid.
    IRNet's displacement field tells instances of a class apart and is left out. Cells on a boundary
    bring less of their score into the walk: times ``1 - boundary``.

    Args:
        in_channels (Sequence[int]): Of all levels.
        channels (int): What each convolution gives. Defaults to 32.
        norm_cfg (dict): Defaults to group norm of 4 groups.
        **kwargs: Of :class:`BaseAffinityHead`.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 32,
                 norm_cfg: dict = dict(type='GN', num_groups=4), **kwargs: Any) -> None:
        super().__init__(in_channels, [channels] * len(in_channels), norm_cfg=norm_cfg, **kwargs)
        self.boundary = nn.Conv2d(self.tap_channels, 1, 1)

    def logits(self, features: Sequence[Tensor]) -> Tensor:
        """The boundary before the sigmoid, float32 (B, 1, h, w)."""
        return self.boundary(self.read(features)).float()

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Boundary, float32 (B, 1, h, w) in (0, 1)."""
        return self.logits(features).sigmoid()

    def affinity(self, output: Tensor, radius: int = 5) -> Affinity:
        """Affinities of neighbours, and ``1 - boundary``."""
        return Affinity(affinity_from_boundary(output[:, 0], radius), 1 - output)
