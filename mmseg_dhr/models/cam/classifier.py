from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmseg.registry import MODELS
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ...utils import UserError
from ..pixels import normalises, rgb_to_inputs
from ..propagation.dhr import valid_mask
from ..samples import sizes_of, tags_of


@MODELS.register_module()
class CAMClassifier(BaseModel):
    """Learns the tags of images, to have their CAMs: a backbone and a CAM head, no segmentation.

    Args:
        backbone (dict): Config of any backbone of mmseg.
        cam_head (dict): Config of a :class:`CAMHead`.
        data_preprocessor (dict): Config of a ``SegDataPreProcessor`` with ``mean`` and ``std``.
        channels_last (bool): Keep the weights in that memory layout: the same results up to
            rounding, faster convolutions on CPUs. Defaults to False.
        norm_eval (bool): Keep the running statistics of the backbone's batch norm while training.
            Defaults to False.
        init_cfg (dict, optional): Initialisation.
    """

    def __init__(self, backbone: dict, cam_head: dict, data_preprocessor: dict,
                 channels_last: bool = False, norm_eval: bool = False,
                 init_cfg: dict | None = None) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if not normalises(self.data_preprocessor):
            raise UserError(f'{type(self).__name__} needs a SegDataPreProcessor with `mean` and '
                            '`std`: CAMs are made of images that it normalises.')
        self.backbone = MODELS.build(backbone)
        self.cam_head = MODELS.build(cam_head)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.norm_eval = norm_eval

    def train(self, mode: bool = True) -> CAMClassifier:
        """Set the mode; with ``norm_eval`` the backbone's batch norms stay in eval mode."""
        super().train(mode)
        if self.norm_eval:
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, inputs: Tensor, data_samples: Any = None,
                mode: str = 'tensor') -> Tensor | dict[str, Tensor]:
        """Losses of a training batch (``mode='loss'``), or the class maps (``'tensor'``).

        Raises:
            ValueError: If the mode is another one: a classifier predicts no masks.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode != 'tensor':
            raise ValueError(f"Expected mode 'loss' or 'tensor', but got {mode!r}: "
                             f'{type(self).__name__} predicts no masks.')
        return self.cam_maps(inputs)

    def cam_maps(self, inputs: Tensor) -> Tensor:
        """Class maps (B, K, h, w) of normalised images, K foreground classes in label order."""
        return self.cam_head(self.backbone(inputs))

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """The CAM head's loss on the tags.

        Args:
            inputs (Tensor): Normalised, padded images (B, 3, H, W).
            data_samples (Sequence[SegDataSample]): With metainfo ``image_labels``.
        """
        maps = self.cam_head(self.backbone(inputs))
        inside = valid_mask(inputs, sizes_of(data_samples), maps.shape[-2:])
        return self.cam_head.loss(maps, inside, self._targets(data_samples, maps))

    def rgb_to_inputs(self, images: Tensor) -> Tensor:
        """Normalise RGB 0..255 as the data preprocessor would."""
        return rgb_to_inputs(images, self.data_preprocessor)

    def _targets(self, data_samples: Sequence[Any], like: Tensor) -> Tensor:
        tags = [tags_of(sample) for sample in data_samples]
        return self.cam_head.tag_targets(tags).to(like.device)
