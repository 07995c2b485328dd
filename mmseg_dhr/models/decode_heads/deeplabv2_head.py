from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn


class _SumOfConvs(nn.ModuleList):
    """Parallel layers on one input, added up."""

    def forward(self, x: Tensor) -> Tensor:
        return sum(layer(x) for layer in self)


@MODELS.register_module()
class DeepLabV2Head(BaseDecodeHead):
    """Atrous spatial pyramid pooling as DeepLabv2 has it (Chen et al., arXiv 1606.00915).

    Several dilated 3x3 convolutions classify the same features, and their logits are added. (The
    ``ASPPHead`` of MMSegmentation is that of DeepLabv3: it concatenates features instead.)

    Args:
        in_channels (int): Channels of the feature map that is read.
        dilations (Sequence[int]): One convolution each. Defaults to (6, 12, 18, 24).
        **kwargs: Of ``BaseDecodeHead``.
    """

    def __init__(self, in_channels: int, dilations: Sequence[int] = (6, 12, 18, 24),
                 **kwargs: Any) -> None:
        super().__init__(in_channels, channels=in_channels, **kwargs)
        # In the place of the classifier, so that its initialisation and dropout apply.
        self.conv_seg = _SumOfConvs(
            nn.Conv2d(in_channels, self.out_channels, 3, padding=d, dilation=d)
            for d in dilations)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (B, out_channels, h, w) of the feature maps."""
        return self.cls_seg(self._transform_inputs(inputs))
