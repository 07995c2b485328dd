"""USS features of whole images, written once and read many times."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..formats import state_fingerprint, write_features
from ..models.uss import multi_scale_features
from ..utils.checks import check_scales
from .common import in_background, list_photos, open_shard

__all__ = ['encoder_settings', 'extract_uss_features', 'write_uss_features']


def extract_uss_features(encoder: Any, image: np.ndarray, scales: Sequence[float] = (1.0, ),
                         flip: bool = False) -> Tensor:
    """Features of one image, averaged over scales and flips on the finest grid.

    The same as those of :class:`MultiScaleUSS` on the image.

    Args:
        encoder (nn.Module): USS encoder, RGB 0..255 -> tuple with one map.
        image (np.ndarray): uint8 RGB (H, W, 3).
        scales (Sequence[float]): Factors on the image size. Defaults to (1.0,).
        flip (bool): Also look at the mirrored image. Defaults to False.

    Returns:
        Tensor: Float32 (D, h, w), covering exactly the whole image.
    """
    return _features(encoder, image[None], scales, flip)[0]


@torch.no_grad()
def _features(encoder: Any, images: np.ndarray, scales: Sequence[float], flip: bool) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, D, h, w)."""
    encoder.eval()
    device = next((b.device for b in encoder.buffers()), torch.device('cpu'))
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous().float()
    return multi_scale_features(encoder, pixels, scales, flip)


def write_uss_features(encoder: Any, dataset: Any, out_dir: str | Path,
                       scales: Sequence[float] = (1.0, ), flip: bool = False,
                       overwrite: bool = False, batch_size: int = 1) -> Path:
    """Write ``{id}.safetensors`` (float16) for every image; goes on where it stopped.

    Args:
        encoder (nn.Module): USS encoder.
        dataset (TaggedDataset): The images.
        out_dir: Output folder.
        scales, flip: See :func:`extract_uss_features`.
        overwrite (bool): Replace files of other settings. Defaults to False.
        batch_size (int): Images of one size that go through the network together. Defaults to 1.

    Returns:
        Path: The folder.
    """
    if hasattr(encoder, 'init_weights') and not getattr(encoder, 'is_init', False):
        encoder.init_weights()
    check_scales(scales)
    settings = dict(kind='uss', scales=list(scales), flip=flip, **encoder_settings(encoder))
    shard = open_shard('USS features', out_dir, list_photos(dataset), settings, '.safetensors',
                       overwrite, tagged=False)
    with in_background() as submit:
        for photos, images in shard.images(batch_size):
            features = _features(encoder, images, scales, flip)
            for photo, one in zip(photos, features, strict=True):
                submit(write_features, shard.output.path(photo.img_id), one)
    shard.finish()
    return Path(out_dir)


def encoder_settings(encoder: Any) -> dict[str, Any]:
    """What the features of a USS encoder depend on, for the manifest of what is made from them."""
    # Constants such as the normalisation are buffers that a state dict leaves out.
    state = {**dict(encoder.named_buffers()), **encoder.state_dict()}
    return dict(encoder=type(encoder).__name__, weights=state_fingerprint(state),
                options=getattr(encoder, 'feature_settings', dict)())  # that are no weights
