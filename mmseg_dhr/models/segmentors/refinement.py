"""What every way of testing with a CRF shares: probabilities, dropped classes, the image."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...utils import UserError
from ..pixels import inputs_to_rgb
from ..propagation.refiners import DenseCRF

__all__ = ['check_refinement', 'class_probabilities', 'gives_probabilities', 'image_from_inputs',
           'kept_classes', 'read_image', 'refine']


def check_refinement(name: str, segmentor: Any, min_score: float) -> None:
    """Check the settings of a refinement and the segmentor that it refines.

    Args:
        name (str): Who asks, for the error.
        segmentor (nn.Module): Any mmseg segmentor.
        min_score (float): See :func:`kept_classes`.

    Raises:
        ValueError: If ``min_score`` is outside [0, 1).
        UserError: If the segmentor has a single output channel.
    """
    if not 0 <= min_score < 1:
        raise ValueError(f'Expected min_score in [0, 1), but got {min_score}.')
    if segmentor.out_channels < 2:
        raise UserError(f'{name} expects one output channel per class, but the segmentor has '
                        f'out_channels={segmentor.out_channels}.')


def gives_probabilities(segmentor: Any) -> bool:
    """Whether ``seg_logits`` of a segmentor are none.

    Heads that classify masks (MaskFormer, Mask2Former) predict sums of class probability times mask
    probability: softmax would flatten them.
    """
    return hasattr(getattr(segmentor, 'decode_head', None), 'num_queries')


def class_probabilities(seg_logits: Tensor, are_probabilities: bool = False) -> Tensor:
    """Turn what a segmentor predicts into class probabilities.

    Args:
        seg_logits (Tensor): (C, H, W), any floating type.
        are_probabilities (bool): They are non-negative scores already; only their sum becomes 1.

    Returns:
        Tensor: float32 (C, H, W).
    """
    scores = seg_logits.float()
    if not are_probabilities:
        return scores.softmax(0)
    return scores / scores.sum(0).clamp_min(1e-12)


def kept_classes(probs: Tensor, min_score: float) -> Tensor:
    """Indices of the classes that exceed ``min_score`` somewhere; never empty.

    Args:
        probs (Tensor): (C, H, W).
        min_score (float): Threshold on each class's maximum.

    Returns:
        Tensor: int64 (n,), ascending, n >= 1.
    """
    peaks = probs.flatten(1).amax(1)  # (C,)
    kept = peaks > min_score
    kept[peaks.argmax()] = True
    return kept.nonzero().flatten()


def refine(probs: Tensor, min_score: float, crf: DenseCRF | None,
           image: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Drop unlikely classes, then refine the rest with a CRF.

    Args:
        probs (Tensor): float32 (C, H, W).
        min_score (float): See :func:`kept_classes`.
        crf (DenseCRF, optional): None leaves it out.
        image (Callable): Gives the image, RGB 0..255 (3, H, W); called only if the CRF runs.

    Returns:
        tuple[Tensor, Tensor]: Probabilities (C, H, W), 0 for dropped classes, and the label of each
        pixel, int64 (1, H, W).
    """
    kept = kept_classes(probs, min_score)
    scores = probs[kept]  # (n, H, W)
    if crf is not None and len(kept) > 1:
        height, width = scores.shape[-2:]
        everything = torch.ones(1, len(kept), dtype=torch.bool)
        scores = crf(image()[None], scores[None], everything, [(height, width)])[0]
    result = torch.zeros_like(probs)
    result[kept] = scores
    # The argmax over kept classes alone, so that a pixel of zeros cannot fall to a dropped one.
    return result, kept[scores.argmax(0, keepdim=True)]


def read_image(path: str, size: Sequence[int]) -> Tensor:
    """The original image of a prediction, uint8 RGB (3, H, W), turned as its EXIF data says.

    Raises:
        UserError: If it cannot be read or has another (height, width) than ``size``.
    """
    try:
        bgr = mmcv.imread(path)
    except cv2.error:  # what OpenCV makes of an empty file
        bgr = None
    if bgr is None:
        raise UserError(f'{path}: expected an image for the CRF, but the file cannot be decoded.')
    image = np.ascontiguousarray(bgr[..., ::-1])
    if image.shape[:2] != tuple(size):
        raise UserError(f'{path}: expected an image of (height, width) = {tuple(size)} like its '
                        f'prediction, but it has {image.shape[:2]}.')
    return torch.from_numpy(image).permute(2, 0, 1)


def image_from_inputs(inputs: Tensor, meta: Mapping[str, Any], preprocessor: Any,
                      size: Sequence[int]) -> Tensor:
    """The image of a prediction, recovered from what the network saw.

    Exact up to rounding if the test pipeline does not resize, and interpolated otherwise.

    Args:
        inputs (Tensor): One image of a batch, (3, h, w), normalised and padded.
        meta (Mapping): Metainfo of its data sample: padding and flip.
        preprocessor (nn.Module): The data preprocessor that normalised it.
        size (Sequence[int]): (H, W) of the prediction.

    Returns:
        Tensor: uint8 RGB (3, H, W), on the CPU.
    """
    left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
    height, width = inputs.shape[-2:]
    pixels = inputs_to_rgb(inputs[:, top:height - bottom, left:width - right].float(), preprocessor)
    if meta.get('flip'):
        pixels = pixels.flip(-1 if meta['flip_direction'] == 'horizontal' else -2)
    if pixels.shape[-2:] != tuple(size):
        pixels = F.interpolate(pixels[None], tuple(size), mode='bilinear', antialias=True)[0]
    return pixels.round().clamp(0, 255).to('cpu', torch.uint8)
