from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import SampleList
from torch import Tensor

from ...utils import UserError
from ..propagation.refiners import DenseCRF
from .crf_post_process import is_refined
from .refinement import (
    check_refinement,
    class_probabilities,
    gives_probabilities,
    read_image,
    refine,
)


@MODELS.register_module()
class CRFTTAModel(SegTTAModel):
    """Test-time augmentation as DHR tests: mean softmax, unlikely classes dropped, dense CRF.

    ::

        logits of every scale and flip -> softmax -> mean -> drop classes -> CRF -> argmax

    Without test-time augmentation: :func:`CRFPostProcess`.

    Args:
        min_score (float): A class whose probability is at most this everywhere in the image is
            dropped. The most probable class always stays. Defaults to 0.05.
        crf (dict, optional): Arguments of :class:`DenseCRF`, which sees the original image;
            ``dict()`` takes their defaults. None leaves the CRF out. Defaults to None.
        **kwargs: Arguments of ``mmengine.model.BaseTTAModel``, ``module`` above all.

    Raises:
        ValueError: If ``min_score`` is outside [0, 1), or a CRF setting is unknown.
        UserError: If the segmentor has a single output channel, or is refined already.
    """

    def __init__(self, min_score: float = 0.05, crf: dict | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_refinement('CRFTTAModel', self.module, min_score)
        if is_refined(self.module):
            raise UserError('CRFTTAModel refines the mean of all views, but its segmentor is in a '
                            'CRFPostProcess, which refines each of them. Give it the segmentor '
                            'alone.')
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
        probs = self._mean([sample.seg_logits.data for sample in samples])  # (C, H, W)
        result, prediction = refine(probs, self.min_score, self.crf,
                                    lambda: _original_image(merged, probs.shape[-2:]))
        merged.set_data(dict(seg_logits=PixelData(data=result),
                             pred_sem_seg=PixelData(data=prediction)))
        return merged

    def _mean(self, logits: Sequence[Tensor]) -> Tensor:
        """Mean probabilities of the augmentations, added up one by one to save memory."""
        total = torch.zeros_like(logits[0], dtype=torch.float32)
        for one in logits:
            total += class_probabilities(one, gives_probabilities(self.module))
        return total / len(logits)


def _original_image(sample: SegDataSample, size: Sequence[int]) -> Tensor:
    path = sample.metainfo.get('img_path')
    if path is None:
        raise UserError('The CRF reads the original image, but the sample has no `img_path`: add '
                        'it to `meta_keys` of PackSegInputs, or test without CRF.')
    return read_image(path, size)
