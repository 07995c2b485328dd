"""Mean field of the dense CRF by the reference implementation."""
from __future__ import annotations

import numpy as np
from pydensecrf.densecrf import DenseCRF2D

from .params import DenseCRFParams

__all__ = ['mean_field']


def mean_field(image: np.ndarray, scores: np.ndarray, params: DenseCRFParams) -> np.ndarray:
    """See :func:`mmseg_dhr.ops.crf.numba_backend.mean_field`; on one thread."""
    classes, height, width = scores.shape
    crf = DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(scores).reshape(classes, -1)))
    crf.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
    crf.addPairwiseBilateral(sxy=params.bilateral_sxy, srgb=params.bilateral_srgb,
                             rgbim=np.ascontiguousarray(image), compat=params.bilateral_compat)
    refined = crf.inference(params.iterations)
    return np.asarray(refined, np.float32).reshape(classes, height, width)
