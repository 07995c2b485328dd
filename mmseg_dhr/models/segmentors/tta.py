from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import SampleList
from torch import Tensor

from ...utils import UserError
from ..propagation.refiners import DenseCRF


@MODELS.register_module()
class CRFTTAModel(SegTTAModel):
    """Test-time augmentation as DHR tests: mean softmax, unlikely classes dropped, dense CRF.

    ::

        logits of every scale and flip -> softmax -> mean -> drop classes -> CRF -> argmax

    Args:
        min_score (float): A class whose probability is at most this everywhere in the image is
            dropped. The most probable class always stays. Defaults to 0.05.
        crf (dict, optional): Arguments of :class:`DenseCRF`, which sees the original image;
            ``dict()`` takes their defaults. None leaves the CRF out. Defaults to None.
        **kwargs: Arguments of ``mmengine.model.BaseTTAModel``, ``module`` above all.

    Raises:
        ValueError: If ``min_score`` is outside [0, 1), or a CRF setting is unknown.
        UserError: If the segmentor has a single output channel.
    """

    def __init__(self, min_score: float = 0.05, crf: dict | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= min_score < 1:
            raise ValueError(f'Expected min_score in [0, 1), but got {min_score}.')
        if self.module.out_channels < 2:
            raise UserError('CRFTTAModel expects one output channel per class, but the segmentor '
                            f'has out_channels={self.module.out_channels}. Use SegTTAModel.')
        self.min_score = min_score
        self.crf = None if crf is None else DenseCRF(**crf)

    def merge_preds(self, data_samples_list: Sequence[SampleList]) -> SampleList:
        """Merge the predictions of all augmentations of each image.

        Args:
            data_samples_list (list[list[SegDataSample]]): For every image one prediction per
                augmentation, all at the size of the original image.

        Returns:
            list[SegDataSample]: The first augmentation's sample (metainfo, ground truth) with

            - ``seg_logits``: probabilities (C, H, W), 0 for dropped classes.
            - ``pred_sem_seg``: their argmax (1, H, W).
        """
        return [self._merge(samples) for samples in data_samples_list]

    def _merge(self, samples: SampleList) -> SegDataSample:
        merged = samples[0]
        probs = _mean_softmax([sample.seg_logits.data for sample in samples])  # (C, H, W)
        kept = kept_classes(probs, self.min_score)
        scores = probs[kept]
        if self.crf is not None and len(kept) > 1:
            height, width = scores.shape[-2:]
            image = _read_image(merged, (height, width))
            everything = torch.ones(1, len(kept), dtype=torch.bool)
            scores = self.crf(image[None], scores[None], everything, [(height, width)])[0]
        result = torch.zeros_like(probs)
        result[kept] = scores
        # The argmax over kept classes alone, so that a pixel of zeros cannot fall to a dropped one.
        prediction = kept[scores.argmax(0, keepdim=True)]  # (1, H, W)
        merged.set_data(dict(seg_logits=PixelData(data=result),
                             pred_sem_seg=PixelData(data=prediction)))
        return merged


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


def _mean_softmax(logits: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(logits[0], dtype=torch.float32)
    for one in logits:
        total += one.float().softmax(0)
    return total / len(logits)


def _read_image(sample: SegDataSample, size: Sequence[int]) -> Tensor:
    """The original image, uint8 RGB (3, H, W).

    Raises:
        UserError: If the sample does not name an image, or that cannot be read or has another size.
    """
    path = sample.metainfo.get('img_path')
    if path is None:
        raise UserError('The CRF reads the original image, but the sample has no `img_path`: add '
                        'it to `meta_keys` of PackSegInputs, or test without CRF.')
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
