from __future__ import annotations

import numpy as np
import pytest

from mmseg_dhr.ops import DenseCRFParams, dense_crf


def _image(height: int = 24, width: int = 31) -> np.ndarray:
    """Left half dark, right half light, a little noise."""
    rng = np.random.default_rng(0)
    image = np.full((height, width, 3), 60, np.int64)
    image[:, width // 2:] = 190
    return (image + rng.integers(-4, 5, image.shape)).astype(np.uint8)


def _probs(height: int = 24, width: int = 31) -> np.ndarray:
    """Class 0 left, class 1 right, uncertain and with a border that is three pixels off."""
    probs = np.full((2, height, width), 0.4, np.float32)
    probs[0, :, :width // 2 + 3] = 0.6
    probs[1] = 1 - probs[0]
    return probs


def test_equals_pydensecrf_called_directly() -> None:
    from pydensecrf.densecrf import DenseCRF2D
    image, probs = _image(), _probs()
    crf = DenseCRF2D(31, 24, 2)
    crf.setUnaryEnergy(-np.log(probs.reshape(2, -1)))
    crf.addPairwiseGaussian(sxy=1, compat=3)
    crf.addPairwiseBilateral(sxy=67, srgb=3, rgbim=image, compat=4)
    expected = np.asarray(crf.inference(10)).reshape(2, 24, 31)
    np.testing.assert_allclose(dense_crf(image, probs), expected, atol=1e-6)


def test_moves_the_border_to_the_edge_of_the_image() -> None:
    labels = dense_crf(_image(), _probs(), DenseCRFParams(bilateral_srgb=10)).argmax(0)
    assert (labels[:, :15] == 0).mean() > 0.99
    assert (labels[:, 15:] == 1).mean() > 0.99


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (13, 1), (17, 5)])
def test_odd_sizes_sum_to_one(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    probs = rng.random((3, *size)).astype(np.float32)
    refined = dense_crf(rng.integers(0, 255, (*size, 3)).astype(np.uint8), probs)
    assert refined.shape == probs.shape
    np.testing.assert_allclose(refined.sum(0), 1, atol=1e-4)


def test_certain_probabilities_and_nan_are_finite() -> None:
    probs = np.zeros((2, 24, 31), np.float32)
    probs[0] = 1
    probs[1, 0, 0] = np.nan
    assert np.isfinite(dense_crf(_image(), probs)).all()


def test_one_class_and_no_iteration_return_the_input() -> None:
    one = np.full((1, 24, 31), 0.3, np.float32)
    np.testing.assert_allclose(dense_crf(_image(), one), 1)
    untouched = dense_crf(_image(), _probs(), DenseCRFParams(iterations=0))
    np.testing.assert_allclose(untouched, _probs(), atol=1e-6)


def test_stride_shrinks_the_wide_kernel_only() -> None:
    params = DenseCRFParams().at_stride(4)
    assert params == DenseCRFParams(bilateral_sxy=67 / 4)


@pytest.mark.parametrize(('image', 'probs', 'message'), [
    (np.zeros((4, 4, 3), np.float32), np.ones((2, 4, 4)), 'uint8 RGB'),
    (np.zeros((4, 4), np.uint8), np.ones((2, 4, 4)), 'uint8 RGB'),
    (np.zeros((4, 4, 3), np.uint8), np.ones((2, 4, 5)), r'\(C, 4, 4\)'),
])
def test_errors(image: np.ndarray, probs: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dense_crf(image, probs)
