from __future__ import annotations

from pathlib import Path
from typing import Any

from mmseg.registry import MODELS

from .checkpoints import HeadFile, read_stego
from .headed import HeadedUSS
from .heads import STEGOHead


@MODELS.register_module()
class STEGO(HeadedUSS):
    """Codes of STEGO (Hamilton et al., ICLR 2022, arXiv 2203.08414) as USS features.

    The continuous code before the cluster probe, averaged over the image and its mirror image.

    Args:
        backbone (dict): Config of the transformer, for example
            ``dict(model_name='vit_base_patch8_224.dino', pos_embed='dino')``. With an official
            checkpoint its own ``checkpoint`` may be left out: the file holds the transformer too.
        checkpoint (str, optional): Official Lightning ``.ckpt``, DHR's ``.pt``, or the state dict
            of a :class:`STEGOHead`; read when training starts or at the first call. None leaves
            random weights, for tests.
        dim (int, optional): Channels of the code. Defaults to those of the file, 70 without one.
        flip (bool): Average with the mirrored image. Defaults to True.
    """

    def __init__(self, backbone: dict[str, Any], checkpoint: str | None = None,
                 dim: int | None = None, flip: bool = True) -> None:
        super().__init__(backbone, checkpoint, dim, flip, default_dim=70)

    def read(self, path: Path) -> HeadFile:
        """Read the file of the head."""
        return read_stego(path)

    def build_head(self, state: dict[str, Any], dim: int) -> STEGOHead:
        """A head for the backbone's features."""
        return STEGOHead(self.backbone.out_channels, dim)

    def code_channels(self, state: dict[str, Any]) -> int | None:
        """Channels of the code of a head's state dict."""
        weight = state.get('cluster1.0.weight')
        return None if weight is None else len(weight)
