from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from ...utils import UserError

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@MODELS.register_module()
class ViTUSS(BaseModule):
    """Patch tokens of a self-supervised vision transformer (through timm) as USS features.

    The image is resized to the nearest multiple of the patch size, so the token grid covers exactly
    the image; class and register tokens are dropped.

    Args:
        model_name (str): timm model, for example ``vit_small_patch14_dinov2``.
        checkpoint (str, optional): State dict (``.safetensors``, or ``.pth`` loaded with
            ``weights_only``), read when training starts or at the first call: a model that is only
            tested does not need it. None leaves random weights, for tests.
        out_index (int): Block whose output is taken, counted as in a list. Defaults to -1.
        norm (bool): Apply the transformer's final norm to the tokens. Defaults to True.
        scale (float): Resize the image by this factor first, for a finer grid. Defaults to 1.0.
        mean, std (Sequence[float]): Normalisation of RGB 0..255. Defaults to ImageNet's.
    """
    input_range = 'rgb255'

    def __init__(self,
                 model_name: str,
                 checkpoint: str | None = None,
                 out_index: int = -1,
                 norm: bool = True,
                 scale: float = 1.0,
                 mean: tuple[float, ...] = IMAGENET_MEAN,
                 std: tuple[float, ...] = IMAGENET_STD) -> None:
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
                '`--cfg-options model.uss_encoder.checkpoint=FILE`.')
        state = _read_state_dict(path)
        try:
            result = self.vit.load_state_dict(state, strict=False)
        except RuntimeError as error:  # a shape; torch lists them one a line
            first = str(error).split('\n')[1].strip()
            raise UserError(f'{path} does not fit {self.model_name}: {first}') from error
        if result.missing_keys:
            raise UserError(f'{path} does not fit {self.model_name}: {len(result.missing_keys)} '
                            f'of its keys are missing, first {result.missing_keys[:3]}.')
        print_log(f'USS encoder {self.model_name}: read {path}', logger='current')
        self._loaded = True

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
        tokens = self.vit.forward_intermediates(
            x, indices=[self.block], norm=self.norm, output_fmt='NCHW', intermediates_only=True)
        return (tokens[0],)


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if path.suffix == '.safetensors':
        from safetensors.torch import load_file
        state = load_file(str(path))
    else:
        state = torch.load(path, map_location='cpu', weights_only=True)
        state = state.get('state_dict', state)
    return {key: value.float() for key, value in state.items()}
