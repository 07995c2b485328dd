from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...formats import load_torch_file
from ...utils import UserError
from .mxnet_params import read_mxnet_params

__all__ = ['WideResNet38', 'WideResNet38Init', 'mxnet_to_wide_resnet38']

# Per block: units, channels of each convolution in a unit, (first, other) dilation, stride.
_BLOCKS = {
    'b2': (3, (128, 128), (1, 1), 2),
    'b3': (3, (256, 256), (1, 1), 2),
    'b4': (6, (512, 512), (1, 1), 2),
    'b5': (3, (512, 1024), (1, 2), 1),
    'b6': (1, (512, 1024, 2048), (4, 4), 1),
    'b7': (1, (1024, 2048, 4096), (4, 4), 1),
}
_DROPOUT = {'b6': 0.3, 'b7': 0.5}


class _Unit(nn.Module):
    """Pre-activated residual unit of two 3x3 convolutions, or of 1x1, 3x3 and 1x1.

    Args:
        in_channels (int): Input channels.
        channels (Sequence[int]): Output channels of each convolution.
        stride (int): Of the first convolution.
        dilations (Sequence[int]): Of the two 3x3 convolutions; of a bottleneck's one, twice.
        dropout (float): Before the second and third convolution of a bottleneck.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], stride: int,
                 dilations: Sequence[int], dropout: float) -> None:
        super().__init__()
        if len(channels) == 2:
            self.names: tuple[str, ...] = ('2a', '2b1')
            kernels = [(3, dilations[0]), (3, dilations[1])]
        else:
            self.names = ('2a', '2b1', '2b2')
            kernels = [(1, 1), (3, dilations[0]), (1, 1)]
        widths = [in_channels, *channels]
        for i, (name, (kernel, dilation)) in enumerate(zip(self.names, kernels, strict=True)):
            self.add_module(f'bn_branch{name}', nn.BatchNorm2d(widths[i]))
            self.add_module(f'conv_branch{name}', nn.Conv2d(
                widths[i], widths[i + 1], kernel, stride if i == 0 else 1,
                padding=kernel // 2 * dilation, dilation=dilation, bias=False))
        self.dropout = nn.Dropout2d(dropout)
        self.conv_branch1 = None
        if in_channels != channels[-1] or stride > 1:
            self.conv_branch1 = nn.Conv2d(in_channels, channels[-1], 1, stride, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output of the unit, and its activated input."""
        activated = getattr(self, f'bn_branch{self.names[0]}')(x).relu()
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(activated)
        out = getattr(self, f'conv_branch{self.names[0]}')(activated)
        for name in self.names[1:]:
            out = getattr(self, f'bn_branch{name}')(out).relu()
            out = getattr(self, f'conv_branch{name}')(self.dropout(out))
        return out + shortcut, activated


@MODELS.register_module()
class WideResNet38(BaseModule):
    """Wide ResNet-38, model A1 of "Wider or Deeper" (Wu et al., arXiv 1611.10080), dilated.

    Output stride 8, as PSA and SEAM use it. The feature maps are activated inputs of the blocks
    that follow, under the names that PSA gives them:

    ===== ========= ========== ======== =================================
    index name      channels   stride   what
    ===== ========= ========== ======== =================================
    0     conv2     128        2        ReLU(BN) of B2, before B3
    1     conv3     256        4        of B3, before B4
    2     conv4     512        8        of B4, before B5
    3     conv5     1024       8        of B5, before B6
    4     conv6     4096       8        of B7
    ===== ========= ========== ======== =================================

    Inputs are normalised with ImageNet's mean and standard deviation. Parameters have the names of
    the weights that SEAM and PSA publish (``b2.conv_branch2a.weight``), see
    :class:`WideResNet38Init`.

    Args:
        out_indices (Sequence[int]): Which feature maps to return. Defaults to all.
        frozen_stages (int): The first convolution and so many of the blocks after it are not
            trained. Defaults to 1, as PSA and SEAM; -1 trains everything.
        norm_eval (bool): Keep running statistics, and do not train scales and offsets of the
            batch norm. Defaults to True, as PSA and SEAM.
        base_channels (int): Width of the first convolution, of which all others are multiples; for
            tests. Defaults to 64.
        init_cfg (dict, optional): Initialisation.

    Raises:
        ValueError: If an index is unknown.
    """
    names = ('conv2', 'conv3', 'conv4', 'conv5', 'conv6')

    def __init__(self,
                 out_indices: Sequence[int] = (0, 1, 2, 3, 4),
                 frozen_stages: int = 1,
                 norm_eval: bool = True,
                 base_channels: int = 64,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if not set(out_indices) <= set(range(len(self.names))):
            raise ValueError(f'Expected out_indices among 0..4, but got {tuple(out_indices)}.')
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.conv1a = nn.Conv2d(3, base_channels, 3, padding=1, bias=False)
        width = base_channels
        self.units: list[str] = []
        for block, (count, channels, (first, other), stride) in _BLOCKS.items():
            scaled = [c * base_channels // 64 for c in channels]
            for i in range(count):
                name = f'{block}_{i}' if i else block
                self.add_module(name, _Unit(
                    width, scaled, stride if i == 0 else 1, (other if i else first, other),
                    _DROPOUT.get(block, 0.0)))
                self.units.append(name)
                width = scaled[-1]
        self.bn7 = nn.BatchNorm2d(width)
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of images (B, 3, H, W): conv_i (B, C_i, ceil(H / s_i), ceil(W / s_i))."""
        taps = []
        x = self.conv1a(x)
        for name in self.units:
            x, activated = getattr(self, name)(x)
            if name in ('b3', 'b4', 'b5', 'b6'):
                taps.append(activated)
        taps.append(self.bn7(x).relu())
        return tuple(taps[i] for i in self.out_indices)

    def train(self, mode: bool = True) -> WideResNet38:
        """Set the mode; frozen batch norms stay in eval mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and self.norm_eval:
                module.eval()
        return self

    def _freeze(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and self.norm_eval:
                module.requires_grad_(False)
        if self.frozen_stages >= 0:
            self.conv1a.requires_grad_(False)
        frozen = list(_BLOCKS)[:max(self.frozen_stages, 0)]
        for name in self.units:
            if name.split('_')[0] in frozen:
                getattr(self, name).requires_grad_(False)


_MXNET_UNIT = re.compile(r'(res|bn)(\d)(?:a|b(\d+))_(branch\w+?)_(\w+)')
_MXNET_PARTS = {'weight': 'weight', 'gamma': 'weight', 'beta': 'bias',
                'moving_mean': 'running_mean', 'moving_var': 'running_var'}


def mxnet_to_wide_resnet38(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the arrays of the published MXNet model to the parameters of :class:`WideResNet38`.

    ``arg:res2b1_branch2a_weight`` becomes ``b2_1.conv_branch2a.weight``,
    ``aux:bn2a_branch2a_moving_mean`` becomes ``b2.bn_branch2a.running_mean``.

    Args:
        params (Mapping): Of :func:`read_mxnet_params`; the classifier ``linear1000`` is dropped.

    Raises:
        ValueError: If a name is unknown.
    """
    state = {}
    for key, value in params.items():
        name = key.split(':', 1)[-1]
        unit = _MXNET_UNIT.fullmatch(name)
        if unit:
            kind, block, number, branch, part = unit.groups()
            module = f'b{block}_{number}' if number else f'b{block}'
            layer = 'conv' if kind == 'res' else 'bn'
            state[f'{module}.{layer}_{branch}.{_part(part, key)}'] = value
        elif name.startswith(('conv1a_', 'bn7_')):
            module, part = name.split('_', 1)
            state[f'{module}.{_part(part, key)}'] = value
        elif not name.startswith('linear1000_'):
            raise ValueError(f'{key!r} is no parameter of a Wide-ResNet-38.')
    return state


def _part(name: str, key: str) -> str:
    if name not in _MXNET_PARTS:
        raise ValueError(f'{key!r} is no parameter of a Wide-ResNet-38.')
    return _MXNET_PARTS[name]


@WEIGHT_INITIALIZERS.register_module()
class WideResNet38Init:
    """``init_cfg=dict(type='WideResNet38Init', checkpoint=...)`` of :class:`WideResNet38`.

    Reads either file that goes around with PSA and SEAM: MXNet's
    ``ilsvrc-cls_rna-a1_cls1000_ep-0001.params`` (MXNet is not needed), or a ``.pth`` with names
    such as ``b2.conv_branch2a.weight``, be it that file converted or a trained PSA or SEAM. What
    is no part of the backbone is left out; the backbone must be complete.

    Args:
        checkpoint (str): The file; its name tells its kind.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def __call__(self, module: Any) -> None:
        """Load the weights into ``module``, a :class:`WideResNet38`.

        Raises:
            UserError: If the file is missing, unreadable or of another network.
        """
        state = self._state()
        own = module.state_dict()
        count = [name for name in own if name.endswith('num_batches_tracked')]
        state = {name: value for name, value in state.items() if name in own}
        state.update({name: state.get(name, own[name]) for name in count})  # not in MXNet's file
        try:
            module.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise UserError(f'{self.checkpoint}: expected the weights of a Wide-ResNet-38, but '
                            f'found others ({" ".join(str(error).split()[:30])} ...).') from error
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'WideResNet38Init from {self.checkpoint}')

    def _state(self) -> dict[str, Tensor]:
        path = Path(self.checkpoint)
        try:
            if path.suffix == '.params':
                return mxnet_to_wide_resnet38(read_mxnet_params(path))
            return _pth_state(load_torch_file(path))
        except FileNotFoundError as error:
            raise UserError(f'{path}: no such file. Expected the ImageNet weights of '
                            'Wide-ResNet-38, ilsvrc-cls_rna-a1_cls1000_ep-0001.params, which the '
                            'repositories of PSA and SEAM link to (docs/en/models.md).') from error
        except ValueError as error:
            raise UserError(str(error)) from error


def _pth_state(content: Any) -> dict[str, Tensor]:
    """The weights in a ``.pth`` file, without the prefix of ``DataParallel``."""
    content = content.get('state_dict', content) if isinstance(content, Mapping) else {}
    return {str(name).removeprefix('module.'): value for name, value in content.items()
            if isinstance(value, torch.Tensor)}
