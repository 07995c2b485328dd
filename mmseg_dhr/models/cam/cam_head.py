from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class CAMHead(BaseModule):
    """Image-level classifier whose class maps are the CAMs.

    A bias-free 1x1 convolution gives one map per foreground class; averaging a map over the valid
    (unpadded) cells gives the tag's logit.

    Args:
        in_channels (int): Channels of the feature map that is read.
        num_classes (int): Classes of the data set, background included.
        background_index (int, optional): Label id of the background, which gets no map. None for a
            data set without background. Defaults to 0.
        in_index (int): Which of the segmentor's feature maps to read. Defaults to -1, the last.
        pool_stride (int): Average-pool the features by this factor first; 2 at output stride 8
            gives the 32x32 CAM of a 512 crop. Defaults to 1.
        loss_weight (float): Weight of L_cls in Eq. 6. Defaults to 1.0.
        init_cfg (dict, optional): Initialisation. Defaults to normal with std 0.01.
    """

    def __init__(self,
                 in_channels: int,
                 num_classes: int,
                 background_index: int | None = 0,
                 in_index: int = -1,
                 pool_stride: int = 1,
                 loss_weight: float = 1.0,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg or dict(type='Normal', layer='Conv2d', std=0.01))
        if background_index is not None and not 0 <= background_index < num_classes:
            raise ValueError(f'Expected background_index in [0, {num_classes}) or None, '
                             f'but got {background_index}.')
        self.num_classes = num_classes
        self.background_index = background_index
        self.in_index = in_index
        self.pool_stride = pool_stride
        self.loss_weight = loss_weight
        self.foreground = [c for c in range(num_classes) if c != background_index]
        self.classifier = nn.Conv2d(in_channels, len(self.foreground), 1, bias=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Class maps (B, K, h, w), K foreground classes in label order."""
        x = features[self.in_index]
        if self.pool_stride > 1:
            x = F.avg_pool2d(x, self.pool_stride, ceil_mode=True, count_include_pad=False)
        return self.classifier(x)

    def tag_targets(self, tags: Sequence[Sequence[int]]) -> Tensor:
        """Multi-hot (B, K) on the CPU from label ids.

        Raises:
            ValueError: If a tag is the background or no class.
        """
        target = torch.zeros(len(tags), len(self.foreground))
        channel = {label: i for i, label in enumerate(self.foreground)}
        for row, labels in enumerate(tags):
            unknown = [c for c in labels if c not in channel]
            if unknown:
                raise ValueError(f'Expected tags among the foreground labels {self.foreground}, '
                                 f'but got {unknown}.')
            target[row, [channel[c] for c in labels]] = 1
        return target

    @staticmethod
    def tag_logits(maps: Tensor, pixel_mask: Tensor) -> Tensor:
        """Mean of each map over valid cells.

        Args:
            maps (Tensor): (B, K, h, w).
            pixel_mask (Tensor): Bool (B, h, w).

        Returns:
            Tensor: (B, K).
        """
        weight = pixel_mask[:, None].to(maps)
        return (maps * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1)

    def loss(self, maps: Tensor, pixel_mask: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """``MultiLabelSoftMarginLoss(tags)`` (Eq. 6).

        Args:
            maps (Tensor): (B, K, h, w).
            pixel_mask (Tensor): Bool (B, h, w), True on cells of the image itself.
            targets (Tensor): Multi-hot (B, K).

        Returns:
            dict: ``loss_cls`` and ``acc_cls``, the share (%) of tags that are told right.
        """
        logits = self.tag_logits(maps.float(), pixel_mask)
        targets = targets.to(logits)
        right = ((logits.detach() > 0) == (targets > 0)).float().mean() * 100
        return dict(
            loss_cls=self.loss_weight * F.multilabel_soft_margin_loss(logits, targets),
            acc_cls=right)
