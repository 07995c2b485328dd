"""Between RGB pixels and what a data preprocessor of mmseg makes of them."""
from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ['inputs_to_rgb', 'normalises', 'rgb_to_inputs']


def normalises(preprocessor: Any) -> bool:
    """Whether a data preprocessor has a mean and a standard deviation."""
    return bool(getattr(preprocessor, '_enable_normalize', False))


def _reads_rgb(preprocessor: Any) -> bool:
    """Whether it swaps channels: pipelines load BGR."""
    # The onedl fork of MMSegmentation put an underscore before the name.
    return any(getattr(preprocessor, name, False)
               for name in ('channel_conversion', '_channel_conversion'))


def inputs_to_rgb(inputs: Tensor, preprocessor: Any) -> Tensor:
    """Undo a data preprocessor: (..., 3, H, W) in RGB 0..255."""
    pixels = inputs
    if normalises(preprocessor):
        pixels = inputs * preprocessor.std + preprocessor.mean
    return pixels if _reads_rgb(preprocessor) else pixels.flip(-3)


def rgb_to_inputs(images: Tensor, preprocessor: Any) -> Tensor:
    """Normalise RGB 0..255, (..., 3, H, W), as a data preprocessor would; float32."""
    pixels = (images if _reads_rgb(preprocessor) else images.flip(-3)).float()
    if normalises(preprocessor):
        pixels = (pixels - preprocessor.mean) / preprocessor.std
    return pixels
