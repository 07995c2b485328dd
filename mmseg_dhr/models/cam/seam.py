from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...ops import (
    cam_scores,
    cross_equivariance_loss,
    equivariance_loss,
    pixel_correlation,
)
from ..propagation.dhr import valid_mask
from ..samples import sizes_of
from .classifier import CAMClassifier


class PixelCorrelation(BaseModule):
    """Embedding of SEAM's pixel correlation module (PCM).

    Each tap of the backbone goes through a 1x1 convolution and a ReLU; together with the image
    itself, all on the grid of the CAM, a last 1x1 convolution makes the features that are compared.

    Args:
        in_channels (Sequence[int]): Channels of the taps.
        tap_channels (Sequence[int]): Channels that each is reduced to. Defaults to (64, 128), the
            paper's.
        channels (int): Channels that are compared. Defaults to 192.
    """

    def __init__(self, in_channels: Sequence[int], tap_channels: Sequence[int] = (64, 128),
                 channels: int = 192) -> None:
        super().__init__(dict(type='Kaiming', layer='Conv2d'))
        if len(in_channels) != len(tap_channels):
            raise ValueError(f'Expected as many `tap_channels` as taps, {len(in_channels)}, '
                             f'but got {len(tap_channels)}.')
        self.reduce = nn.ModuleList(
            nn.Conv2d(c, d, 1, bias=False) for c, d in zip(in_channels, tap_channels, strict=True))
        self.compare = nn.Conv2d(sum(tap_channels) + 3, channels, 1, bias=False)

    def forward(self, inputs: Tensor, taps: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Features (B, channels, h, w) on the grid (h, w), from images (B, 3, H, W) and taps."""
        reduced = [F.relu(conv(tap)) for conv, tap in zip(self.reduce, taps, strict=True)]
        # The image shrinks by far more than the taps: without the average it would be sampled.
        image = F.adaptive_avg_pool2d(inputs, grid)
        levels = [F.interpolate(level, size=grid, mode='bilinear', align_corners=False)
                  for level in reduced]
        return self.compare(torch.cat([image.to(inputs), *levels], dim=1))


class View(NamedTuple):
    """One branch: class maps and the features that the PCM compares, (B, ., h, w)."""
    maps: Tensor
    features: Tensor


@MODELS.register_module()
class SEAM(CAMClassifier):
    """CAM network whose maps must not depend on the image's scale (Wang et al., CVPR 2020).

    The image and a rescaled copy go through the same network. Beside the tags' loss on both, their
    CAMs must agree after the rescaling A (ER), and so must the CAM of one with the CAM of the
    other that the pixel correlation module (PCM) refined (ECR)::

        image ----> CAM --A--> PCM ----.        L = L_cls + L_ER + L_ECR
                     |           \\     |
                    L_ER        ECR   ECR
                     |           /     |
        rescaled -> CAM -----> PCM ----'

    The backbone learns from the tags and from ER, the PCM from ECR: no gradient flows back through
    the PCM's inputs, as in the paper, nor to the raw CAMs that the refined ones are compared with.
    Otherwise the easiest way to agree is a CAM of a single cell.

    Args:
        backbone, cam_head, data_preprocessor, channels_last, norm_eval, init_cfg: See
            :class:`CAMClassifier`. As the two images differ in size, ``norm_eval`` is on.
        tap_indices (Sequence[int]): The backbone's maps that the PCM reads.
        tap_in_channels (Sequence[int]): Their channels.
        tap_channels (Sequence[int]): See :class:`PixelCorrelation`. Defaults to (64, 128).
        rescale (float): Size of the second image, relative. Defaults to 0.3, the paper's for 448 px
            at output stride 8.
        hard (float): Share of ECR's errors that counts. Defaults to 0.2.
        er_weight (float): Weight of L_ER. Defaults to 1.0.
        ecr_weight (float): Weight of L_ECR. Defaults to 1.0.
    """

    def __init__(self, backbone: dict, cam_head: dict, data_preprocessor: dict,
                 tap_indices: Sequence[int], tap_in_channels: Sequence[int],
                 tap_channels: Sequence[int] = (64, 128), rescale: float = 0.3, hard: float = 0.2,
                 er_weight: float = 1.0, ecr_weight: float = 1.0, channels_last: bool = False,
                 norm_eval: bool = True, init_cfg: dict | None = None) -> None:
        super().__init__(backbone, cam_head, data_preprocessor, channels_last, norm_eval, init_cfg)
        if not 0 < rescale < 1:
            raise ValueError(f'Expected `rescale` in (0, 1), but got {rescale}.')
        self.pcm = PixelCorrelation(tap_in_channels, tap_channels)
        self.tap_indices = tuple(tap_indices)
        self.rescale = rescale
        self.hard = hard
        self.er_weight = er_weight
        self.ecr_weight = ecr_weight

    def cam_maps(self, inputs: Tensor) -> Tensor:
        """Refined, rectified class maps (B, K, h, w) of normalised images."""
        view = self._view(inputs)
        return pixel_correlation(view.maps.relu(), view.features)

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Tag losses of both images, ``loss_er`` and ``loss_ecr``.

        Args:
            inputs (Tensor): Normalised, padded images (B, 3, H, W).
            data_samples (Sequence[SegDataSample]): With metainfo ``image_labels``.
        """
        small = F.interpolate(inputs, scale_factor=self.rescale, mode='bilinear', antialias=True,
                              recompute_scale_factor=True)
        views = [self._view(inputs), self._view(small)]
        sizes = sizes_of(data_samples)
        insides = [valid_mask(inputs, sizes, view.maps.shape[-2:]) for view in views]
        targets = self._targets(data_samples, inputs)
        tagged = [self.cam_head.loss(view.maps, inside, targets)
                  for view, inside in zip(views, insides, strict=True)]
        scores = [cam_scores(view.maps, targets, inside)
                  for view, inside in zip(views, insides, strict=True)]
        refined = [pixel_correlation(score.detach(), view.features, inside)
                   for score, view, inside in zip(scores, views, insides, strict=True)]
        moved = [F.adaptive_avg_pool2d(score, _grid(scores[1]))
                 for score in (scores[0], refined[0])]
        raw = moved[0].detach(), scores[1].detach()
        return dict(
            loss_cls=(tagged[0]['loss_cls'] + tagged[1]['loss_cls']) / 2,
            acc_cls=tagged[0]['acc_cls'],
            loss_er=self.er_weight * equivariance_loss(moved[0], scores[1], insides[1]),
            loss_ecr=self.ecr_weight * cross_equivariance_loss(
                raw[0], moved[1], raw[1], refined[1], insides[1], self.hard))

    def _view(self, inputs: Tensor) -> View:
        levels = self.backbone(inputs)
        maps = self.cam_head(levels)
        taps = [levels[i].detach() for i in self.tap_indices]
        return View(maps, self.pcm(inputs.detach(), taps, _grid(maps)))


def _grid(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]
