from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from ...utils import UserError
from .checkpoints import read_state_dict

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@MODELS.register_module()
class ViTUSS(BaseModule):
    """Patch tokens of a self-supervised vision transformer (through timm) as USS features.

    The image is resized to the nearest multiple of the patch size, so the token grid covers exactly
    the image; class and register tokens are dropped.

    DINO (``vit_{small,base}_patch{8,16}_224.dino``), DINOv2 and DINOv3 are timm models; the
    official file of DINO, such as ``dino_deitsmall8_pretrain.pth``, loads as it is.

    Args:
        model_name (str): timm model, for example ``vit_small_patch14_dinov2``.
        checkpoint (str, optional): State dict (``.safetensors`` or a file of ``torch.save``), read
            when training starts or at the first call: a model that is only tested does not need
            it. None leaves random weights, for tests.
        out_index (int): Block whose output is taken, counted as in a list. Defaults to -1.
        norm (bool): Apply the transformer's final norm to the tokens. Defaults to True.
        scale (float): Resize the image by this factor first, for a finer grid. Defaults to 1.0.
        mean, std (Sequence[float]): Normalisation of RGB 0..255. Defaults to ImageNet's.
        pos_embed (str): How the position embedding gets the size of the grid: 'timm' (to the size,
            bicubic, antialiased) or 'dino' (by a scale factor, bicubic, as DINO's own code does:
            for heads that were trained on that). Equal where nothing is resized. Defaults to
            'timm'.
        bfloat16 (bool): Compute in it, whatever the training does: faster on GPUs and on CPUs that
            have instructions for it, slower on others (docs/en/speed.md). Defaults to False.

    Raises:
        ValueError: If there is no such block, or no such rule for the model.
    """
    input_range = 'rgb255'

    def __init__(self,
                 model_name: str,
                 checkpoint: str | None = None,
                 out_index: int = -1,
                 norm: bool = True,
                 scale: float = 1.0,
                 mean: tuple[float, ...] = IMAGENET_MEAN,
                 std: tuple[float, ...] = IMAGENET_STD,
                 pos_embed: str = 'timm',
                 bfloat16: bool = False) -> None:
        super().__init__()
        import timm  # imported late: a run without a ViT need not have it
        self.model_name = model_name
        self.checkpoint = checkpoint
        self.vit = timm.create_model(model_name, pretrained=False, num_classes=0,
                                     dynamic_img_size=True)
        self.vit.requires_grad_(False).eval()
        blocks = len(self.vit.blocks)
        if not -blocks <= out_index < blocks:
            raise ValueError(f'Expected out_index in [{-blocks}, {blocks}) for {model_name}, '
                             f'but got {out_index}.')
        self.block = out_index % blocks
        self.norm = norm
        self.scale = scale
        self.pos_embed = pos_embed
        self.bfloat16 = bfloat16
        if pos_embed not in ('timm', 'dino'):
            raise ValueError(f"Expected pos_embed to be 'timm' or 'dino', but got {pos_embed!r}.")
        if pos_embed == 'dino':
            if self.vit.num_prefix_tokens != 1 or getattr(self.vit, 'no_embed_class', True):
                raise ValueError("pos_embed='dino' expects a transformer with a class token and no "
                                 f'register tokens, which {model_name} is not.')
            self.vit._pos_embed = partial(_add_dino_positions, self.vit)
        self.patch = self.vit.patch_embed.patch_size[0]
        self.out_channels = self.vit.embed_dim
        self._loaded = checkpoint is None
        self.register_buffer('mean', torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def init_weights(self) -> None:
        """Read the checkpoint.

        Raises:
            UserError: If the file is missing or does not fit the model.
        """
        if self._loaded:
            return
        path = Path(str(self.checkpoint))
        if not path.is_file():
            raise UserError(
                f'USS encoder weights not found: expected {path} (state dict of timm '
                f'{self.model_name}). Make it with `python tools/misc/save_timm_weights.py '
                f'{self.model_name} {path}`, or give another file with '
                '`--cfg-options model.uss_encoder.checkpoint=FILE` (of an encoder with a head: '
                '`model.uss_encoder.backbone.checkpoint`).')
        state = read_state_dict(path)
        self.load_weights(state.get('state_dict', state), str(path))

    def load_weights(self, state: dict[str, Any], source: str) -> None:
        """Take the transformer's weights from a state dict with timm's names.

        Args:
            state (dict): The state dict; entries that the transformer lacks are ignored.
            source (str): Where it is from, for messages.

        Raises:
            UserError: If it does not fit the model.
        """
        state = {key: value.float() for key, value in state.items() if torch.is_tensor(value)}
        try:
            result = self.vit.load_state_dict(state, strict=False)
        except RuntimeError as error:  # a shape; torch lists them one a line
            first = str(error).split('\n')[1].strip()
            raise UserError(f'{source} does not fit {self.model_name}: {first}') from error
        if result.missing_keys:
            raise UserError(f'{source} does not fit {self.model_name}: {len(result.missing_keys)} '
                            f'of its keys are missing, first {result.missing_keys[:3]}.')
        print_log(f'USS encoder {self.model_name}: read {source}', logger='current')
        self._loaded = True

    def feature_settings(self) -> dict[str, Any]:
        """Settings that change the features and are no weights."""
        settings: dict[str, Any] = dict(block=self.block, norm=self.norm, scale=self.scale)
        # Left out where it is the default: caches made before there was a choice stay valid.
        if self.pos_embed != 'timm':
            settings['pos_embed'] = self.pos_embed
        if self.bfloat16:
            settings['bfloat16'] = True
        return settings

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Features of RGB images.

        Args:
            images (Tensor): (B, 3, H, W), 0..255.

        Returns:
            tuple[Tensor]: One map (B, D, h, w), h and w the sides in patches.
        """
        self.init_weights()
        x = (images.float() - self.mean) / self.std
        grid = [max(1, round(side * self.scale / self.patch)) for side in images.shape[-2:]]
        size = [cells * self.patch for cells in grid]
        if list(images.shape[-2:]) != size:
            x = F.interpolate(x, size=size, mode='bicubic', align_corners=False, antialias=True)
        precision = (torch.autocast(x.device.type, torch.bfloat16) if self.bfloat16
                     else nullcontext())
        with precision:
            tokens, = self.vit.forward_intermediates(
                x, indices=[self.block], norm=self.norm, output_fmt='NCHW', intermediates_only=True)
        return (tokens.float() if self.bfloat16 else tokens,)


def _add_dino_positions(vit: Any, patches: Tensor) -> Tensor:
    """DINO's own rule for a grid of any size: (B, h, w, D) -> tokens (B, 1 + hw, D).

    The scale factor itself, and not the ratio of the sizes, maps coordinates, and 0.1 of a cell is
    added so that it never rounds down to a cell less (Caron et al., ICCV 2021, published code).
    """
    grid, old = patches.shape[1:3], vit.patch_embed.grid_size
    positions = vit.pos_embed
    if tuple(grid) != tuple(old):
        cells = positions[:, 1:].unflatten(1, old).permute(0, 3, 1, 2)
        factors = [(new + .1) / side for new, side in zip(grid, old, strict=True)]
        cells = F.interpolate(cells.float(), scale_factor=factors, mode='bicubic')
        positions = torch.cat([positions[:, :1], cells.flatten(2).transpose(1, 2)], dim=1)
    classes = vit.cls_token.expand(len(patches), -1, -1)
    return vit.pos_drop(torch.cat([classes, patches.flatten(1, 2)], dim=1) + positions)
