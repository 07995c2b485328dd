from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...utils.checks import check_scales

__all__ = ['MultiScaleUSS', 'multi_scale_features']


def multi_scale_features(encoder: nn.Module, images: Tensor, scales: Sequence[float],
                         flip: bool) -> Tensor:
    """Features averaged over scales and flips, on the finest grid.

    The sides of the scaled images are rounded to whole pixels, and the encoder resizes to its grid;
    nothing is padded. So every view covers exactly the image, and the grids lie on one another.

    Args:
        encoder (nn.Module): RGB 0..255 -> tuple with one map.
        images (Tensor): (B, 3, H, W), RGB 0..255.
        scales (Sequence[float]): Factors on the image size.
        flip (bool): Also look at the mirrored images.

    Returns:
        Tensor: Float32 (B, D, h, w).
    """
    height, width = images.shape[-2:]
    total: Tensor | None = None
    for scale in sorted(scales, reverse=True):
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        scaled = images if scale == 1 else F.interpolate(
            images.float(), size=size, mode='bilinear', antialias=scale < 1)
        view = encoder(scaled)[0].float()
        if flip:
            view = view + encoder(scaled.flip(-1))[0].flip(-1)
        # One by one: a batch's maps may have gigabytes.
        total = view if total is None else total + F.interpolate(
            view, size=total.shape[-2:], mode='bilinear', align_corners=False)
    assert total is not None, 'no scale'
    return total / (len(scales) * (2 if flip else 1))


@MODELS.register_module()
class MultiScaleUSS(BaseModule):
    """Another USS encoder, averaged over scales and mirror images.

    The same features as those that ``tools/extract_uss_features.py --scales ... --flip`` caches;
    here they are computed online, on the augmented pixels. DHR (official settings): scales 0.5, 1,
    1.5 and 2 with flip, eight passes per image.

    Args:
        encoder (dict): Config of the encoder.
        scales (Sequence[float]): Factors on the image size. Defaults to (0.5, 1.0, 1.5, 2.0).
        flip (bool): Also look at the mirrored images. Defaults to True.

    Raises:
        ValueError: If there is no scale, or one is not positive.
    """
    input_range = 'rgb255'

    def __init__(self, encoder: dict[str, Any], scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
                 flip: bool = True) -> None:
        super().__init__()
        check_scales(scales)
        self.encoder = MODELS.build(encoder)
        self.scales = tuple(scales)
        self.flip = flip

    @property
    def out_channels(self) -> int:
        """Channels of the features."""
        return int(self.encoder.out_channels)

    def train(self, mode: bool = True) -> MultiScaleUSS:
        """Stays in eval mode: the encoder is frozen."""
        return super().train(False)

    def init_weights(self) -> None:
        """Read the files of the encoder."""
        if hasattr(self.encoder, 'init_weights'):
            self.encoder.init_weights()

    def feature_settings(self) -> dict[str, Any]:
        """Settings that change the features and are no weights."""
        below: dict[str, Any] = getattr(self.encoder, 'feature_settings', dict)()
        return dict(scales=list(self.scales), flip=self.flip,
                    encoder=type(self.encoder).__name__, options=below)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Features of RGB images.

        Args:
            images (Tensor): (B, 3, H, W), 0..255.

        Returns:
            tuple[Tensor]: One float32 map (B, D, h, w), the grid that of the largest scale.
        """
        return (multi_scale_features(self.encoder, images, self.scales, self.flip), )
