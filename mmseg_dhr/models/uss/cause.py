from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from ...utils import UserError
from .checkpoints import HeadFile, read_cause, read_codebook
from .headed import HeadedUSS
from .heads import CAUSEMLPHead, CAUSETRHead

_TRAINING_SIDE = 320  # pixels; the nearest multiple of the patch, 322 for patches of 14


@MODELS.register_module()
class CAUSEMLP(HeadedUSS):
    """Codes of CAUSE-MLP (Kim et al., arXiv 2310.07379) as USS features.

    Args:
        backbone (dict): Config of the transformer with its ``checkpoint``; the files of CAUSE do
            not hold it.
        checkpoint (str, optional): ``segment_mlp.pth``, DHR's ``.pt``, or the state dict of a
            :class:`CAUSEMLPHead`; read when training starts or at the first call. The averaged
            head, ``head_ema``, is taken. None leaves random weights, for tests.
        codebook (str, optional): ``modular.npy``, or a ``.pth`` with the entry ``codebook``. The
            features do not depend on it; it is kept as buffer for those who want the discrete
            concepts. Defaults to None.
        dim (int, optional): Channels of the code. Defaults to those of the file, 90 without one.

    Attributes:
        codebook (Tensor, optional): (codes, F), in no checkpoint; None until the files are read.
    """
    codebook: Tensor | None

    def __init__(self, backbone: dict[str, Any], checkpoint: str | None = None,
                 codebook: str | None = None, dim: int | None = None) -> None:
        super().__init__(backbone, checkpoint, dim, flip=False, default_dim=90)
        self.codebook_file = codebook
        self.register_buffer('codebook', None, persistent=False)

    def read(self, path: Path) -> HeadFile:
        """Read the file of the head.

        Raises:
            UserError: If it is missing, has another layout or is that of the other kind.
        """
        file = read_cause(path)
        is_transformer = 'query_pos' in file.head
        if is_transformer != (type(self) is CAUSETR):
            right, found = ('CAUSETR', 'transformer') if is_transformer else ('CAUSEMLP', 'MLP')
            raise UserError(f'{path}: holds the {found} head of CAUSE. Use '
                            f"dict(type='{right}', ...) instead of {type(self).__name__}.")
        return file

    def build_head(self, state: dict[str, Any], dim: int) -> CAUSEMLPHead:
        """A head for the backbone's features."""
        return CAUSEMLPHead(self.backbone.out_channels, dim)

    def code_channels(self, state: dict[str, Any]) -> int | None:
        """Channels of the code of a head's state dict."""
        weight = state.get('f1.weight')
        return None if weight is None else len(weight)

    def take_extras(self, file: HeadFile) -> None:
        """Keep the codebook: that of its own file, else that of the head's."""
        codebook = file.codebook
        if self.codebook_file is not None:
            codebook = read_codebook(Path(self.codebook_file))
        if codebook is None:
            return
        if codebook.shape[1] != self.backbone.out_channels:
            raise UserError(f'{self.codebook_file or self.checkpoint}: expected a codebook of '
                            f'{self.backbone.out_channels} columns, the channels of the '
                            f'transformer, but found {tuple(codebook.shape)}.')
        self.codebook = codebook.to(next(self.head.parameters()).device)


@MODELS.register_module()
class CAUSETR(CAUSEMLP):
    """Codes of CAUSE-TR (Kim et al., arXiv 2310.07379) as USS features.

    The grid follows the image and the learned queries are resized to it, unless ``square`` is set.

    Args:
        backbone (dict): Config of the transformer with its ``checkpoint``; the files of CAUSE do
            not hold it.
        checkpoint (str, optional): ``segment_tr.pth``, DHR's ``.pt``, or the state dict of a
            :class:`CAUSETRHead`. See :class:`CAUSEMLP`.
        codebook, dim: See :class:`CAUSEMLP`.
        num_heads (int): Attention heads of the decoder layer. Its weights do not tell; the official
            ones have 12, also on ViT-S. Defaults to 12.
        square (bool): Bring the backbone's features to the square grid of the queries instead, by
            nearest cell. True for heads of :class:`CAUSETraining`: a query belongs to a cell, and
            resizing along the flattened index moves it to another one. Defaults to False.
    """

    def __init__(self, backbone: dict[str, Any], checkpoint: str | None = None,
                 codebook: str | None = None, dim: int | None = None,
                 num_heads: int = 12, square: bool = False) -> None:
        self.num_heads = num_heads  # before the modules: building the head needs it
        super().__init__(backbone, checkpoint, codebook, dim)
        self.square = square

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Codes of RGB images; see :class:`HeadedUSS`."""
        if not self.square:
            return super().forward(images)
        self.init_weights()
        side = math.isqrt(len(self.head.state_dict()['query_pos']))
        features = F.interpolate(self.backbone(images)[0], (side, side), mode='nearest-exact')
        return (self.head(features), )

    def build_head(self, state: dict[str, Any], dim: int) -> CAUSETRHead:
        """A head for the backbone's features, with as many queries as the state dict has."""
        sizes = dict(num_queries=round(_TRAINING_SIDE / getattr(self.backbone, 'patch', 8))**2)
        if 'query_pos' in state:
            sizes['num_queries'] = len(state['query_pos'])
        if 'tr.linear1.weight' in state:
            sizes['hidden_channels'] = len(state['tr.linear1.weight'])
        return CAUSETRHead(self.backbone.out_channels, dim, self.num_heads, **sizes)

    def feature_settings(self) -> dict[str, Any]:
        """Settings that change the features and are no weights."""
        settings = dict(super().feature_settings(), num_heads=self.num_heads)
        return dict(settings, square=True) if self.square else settings
