"""Fully connected CRF (Krähenbühl & Koltun, 2011), the boundary correction R_C of DHR."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ['DenseCRFParams', 'dense_crf']


class DenseCRFParams(NamedTuple):
    """Settings of the CRF; the defaults are those of DHR's training and test.

    Attributes:
        iterations: Mean-field steps. 0 returns the input.
        gaussian_sxy: Standard deviation of the smoothness kernel, pixels.
        gaussian_compat: Its weight.
        bilateral_sxy: Standard deviation of the appearance kernel, pixels.
        bilateral_srgb: Standard deviation in colour, grey levels 0..255.
        bilateral_compat: Its weight.
    """
    iterations: int = 10
    gaussian_sxy: float = 1.0
    gaussian_compat: float = 3.0
    bilateral_sxy: float = 67.0
    bilateral_srgb: float = 3.0
    bilateral_compat: float = 4.0

    def at_stride(self, stride: float) -> DenseCRFParams:
        """The same CRF on an image that was shrunk by ``stride``: the wide kernel shrinks with
        it, the smoothness kernel stays at one pixel of the grid it works on."""
        return self._replace(bilateral_sxy=self.bilateral_sxy / stride)


def dense_crf(image: np.ndarray, probs: np.ndarray,
              params: DenseCRFParams = DenseCRFParams()) -> np.ndarray:
    """Refine class probabilities with the colours of the image.

    Args:
        image (np.ndarray): uint8 (H, W, 3), RGB.
        probs (np.ndarray): Float (C, H, W), non-negative; normalised over classes here. Bring only
            the classes that the image shows: the cost is linear in C.
        params (DenseCRFParams): Settings.

    Returns:
        np.ndarray: Float32 (C, H, W), sums to 1 over classes; with fewer than two classes the
        input, normalised.

    Raises:
        ValueError: If the shapes or the image's type do not fit.
        ImportError: If ``pydensecrf`` is not installed.
    """
    _check(image, probs)
    classes, height, width = probs.shape
    scores = np.nan_to_num(np.asarray(probs, np.float32)).clip(1e-5)
    scores = scores / scores.sum(0, keepdims=True)
    if classes < 2 or params.iterations == 0 or height * width == 0:
        return scores
    crf = _densecrf_class()(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(scores).reshape(classes, -1)))
    crf.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
    crf.addPairwiseBilateral(sxy=params.bilateral_sxy, srgb=params.bilateral_srgb,
                             rgbim=np.ascontiguousarray(image), compat=params.bilateral_compat)
    refined = crf.inference(params.iterations)
    return np.asarray(refined, np.float32).reshape(classes, height, width)


def _check(image: np.ndarray, probs: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError('Expected an uint8 RGB image of shape (H, W, 3), '
                         f'but got {image.dtype} {image.shape}.')
    if probs.ndim != 3 or probs.shape[1:] != image.shape[:2]:
        raise ValueError(f'Expected probs of shape (C, {image.shape[0]}, {image.shape[1]}), '
                         f'but got {probs.shape}.')


def _densecrf_class() -> type:
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise ImportError('The dense CRF needs pydensecrf: `pip install pydensecrf2` (or '
                          'pydensecrf), or set `crf=None` in the config.') from error
    return DenseCRF2D
