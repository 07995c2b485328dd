"""A frozen backbone and a head on its features."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...utils import UserError
from .checkpoints import HeadFile

__all__ = ['HeadedUSS']


class HeadedUSS(BaseModule):
    """Base of the encoders whose features are the code of a head.

    A subclass says how its file is read and how its head is built.

    Args:
        backbone (dict): Config of the encoder below the head; ``type`` defaults to
            :class:`ViTUSS`.
        checkpoint (str, optional): File of the head, read when training starts or at the first
            call. None leaves random weights, for tests.
        dim (int, optional): Channels of the code. None takes those of the file.
        flip (bool): Average with the code of the mirrored image.
        default_dim (int): ``dim`` where there is neither a number nor a file.
    """
    input_range = 'rgb255'

    def __init__(self, backbone: dict[str, Any], checkpoint: str | None, dim: int | None,
                 flip: bool, default_dim: int) -> None:
        super().__init__()
        self.backbone = MODELS.build({'type': 'ViTUSS', **backbone})
        self.checkpoint = checkpoint
        self.flip = flip
        self._dim = dim
        self._loaded = checkpoint is None
        self._head_dim = dim or default_dim
        self.head = self.build_head({}, self._head_dim)
        self.requires_grad_(False).eval()

    def read(self, path: Path) -> HeadFile:
        """Read the file of the head."""
        raise NotImplementedError

    def build_head(self, state: dict[str, Any], dim: int) -> nn.Module:
        """The head, random; sizes are the state dict's where it is not empty."""
        raise NotImplementedError

    def code_channels(self, state: dict[str, Any]) -> int | None:
        """Channels of the code of a head's state dict; None if they cannot be told."""
        raise NotImplementedError

    @property
    def out_channels(self) -> int:
        """Channels of the features; reads the file if only that says how many there are."""
        if self._dim is None:
            self.init_weights()
        return self._head_dim

    def train(self, mode: bool = True) -> HeadedUSS:
        """Stays in eval mode: the encoder is frozen."""
        return super().train(False)

    def init_weights(self) -> None:
        """Read the files of the backbone and of the head.

        Raises:
            UserError: If a file is missing, unknown or does not fit.
        """
        if self._loaded:
            if hasattr(self.backbone, 'init_weights'):
                self.backbone.init_weights()
            return
        path = Path(str(self.checkpoint))
        file = self.read(path)
        print_log(f'{type(self).__name__}: {path} has the layout of {file.layout}',
                  logger='current')
        self._load_backbone(file, path)
        self._load_head(file.head, path)
        self.take_extras(file)
        self._loaded = True

    def take_extras(self, file: HeadFile) -> None:
        """Take what a file holds besides head and backbone."""

    def _load_backbone(self, file: HeadFile, path: Path) -> None:
        """From its own file; else from that of the head."""
        if getattr(self.backbone, 'checkpoint', '') is not None:
            if hasattr(self.backbone, 'init_weights'):
                self.backbone.init_weights()
        elif file.backbone is not None:
            self.backbone.load_weights(file.backbone, str(path))
        else:
            raise UserError(f'{path} ({file.layout}) holds the head alone. Give the file of the '
                            f'transformer that it was trained on: {type(self).__name__}(backbone='
                            'dict(checkpoint=FILE)).')

    def _load_head(self, state: dict[str, Any], path: Path) -> None:
        dim = self.code_channels(state)
        if self._dim is not None and dim is not None and dim != self._dim:
            raise UserError(f'{path}: its code has {dim} channels, but the config says dim='
                            f'{self._dim}. Set dim={dim}, or leave it out.')
        head = self.build_head(state, dim or self._head_dim)
        try:
            head.load_state_dict({key: torch.as_tensor(value).float()
                                  for key, value in state.items()})
        except RuntimeError as error:  # torch lists the differences one a line
            first = str(error).split('\n')[1].strip()
            raise UserError(f'{path} does not fit the head of {type(self).__name__} on features '
                            f'of {self.backbone.out_channels} channels: {first}') from error
        _take_over(self.head, head)
        self._head_dim = dim or self._head_dim

    def feature_settings(self) -> dict[str, Any]:
        """Settings that change the features and are no weights."""
        below: dict[str, Any] = getattr(self.backbone, 'feature_settings', dict)()
        return dict(flip=self.flip, backbone=type(self.backbone).__name__, **below)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Codes of RGB images.

        Args:
            images (Tensor): (B, 3, H, W), 0..255.

        Returns:
            tuple[Tensor]: One map (B, D, h, w) on the backbone's grid.
        """
        self.init_weights()
        code = self.head(self.backbone(images)[0])
        if self.flip:
            mirrored = self.head(self.backbone(images.flip(-1))[0])
            code = (code + mirrored.flip(-1)) / 2
        return (code, )


def _take_over(head: nn.Module, other: nn.Module) -> None:
    """Give a head the values and sizes of another of the same class.

    Modules and parameters stay the same objects: mmengine forbids to replace them while weights are
    initialised, and whoever holds them, such as an optimizer, would hold the wrong ones.
    """
    for module, new in zip(head.modules(), other.modules(), strict=True):
        sizes = {name: value for name, value in vars(new).items()
                 if type(value) is int and not name.startswith('_')}
        module.__dict__.update(sizes)
    for parameter, value in zip(head.parameters(), other.parameters(), strict=True):
        parameter.data = value.data.to(parameter.device)
