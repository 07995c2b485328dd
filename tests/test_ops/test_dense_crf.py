from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
import torch

from mmseg_dhr.ops import DenseCRFParams, dense_crf, dense_crf_batch
from mmseg_dhr.ops.crf.lattice import DIRECTIONS, lattice_of
from mmseg_dhr.ops.crf.numba_jit import jit

OURS = ('numba', 'torch')
# The function hides the module of its name.
MODULE = importlib.import_module('mmseg_dhr.ops.dense_crf')


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


def _photo(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth colours with edges: noise would put every pixel into a simplex of its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size[0], :size[1]]
    shades = [128 + 90 * np.sin(x / rng.uniform(5, 20) + c) * np.cos(y / rng.uniform(5, 20))
              for c in range(3)]
    image = np.stack(shades, -1)
    image[y > 0.6 * x] += 30
    return (image + rng.normal(0, 2, image.shape)).clip(0, 255).astype(np.uint8)


def _random_probs(classes: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size[0], :size[1]]
    maps = [np.sin(x / 9 + c) * np.cos(y / 7 - c) + rng.normal(0, .2, size)
            for c in range(classes)]
    probs = np.exp(np.stack(maps)).astype(np.float32)
    return probs / probs.sum(0)


def _reference(image: np.ndarray, probs: np.ndarray, params: DenseCRFParams) -> np.ndarray:
    from pydensecrf.densecrf import DenseCRF2D
    classes, height, width = probs.shape
    crf = DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(probs.reshape(classes, -1))))
    crf.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
    crf.addPairwiseBilateral(sxy=params.bilateral_sxy, srgb=params.bilateral_srgb,
                             rgbim=np.ascontiguousarray(image), compat=params.bilateral_compat)
    return np.asarray(crf.inference(params.iterations)).reshape(probs.shape)


def test_pydensecrf_backend_is_pydensecrf() -> None:
    image, probs = _image(), _probs()
    np.testing.assert_allclose(dense_crf(image, probs, backend='pydensecrf'),
                               _reference(image, probs, DenseCRFParams()), atol=1e-6)


@pytest.mark.parametrize('backend', OURS)
@pytest.mark.parametrize(('classes', 'size', 'srgb'), [
    (2, (60, 80), 3), (3, (41, 67), 3), (6, (33, 50), 13), (21, (20, 30), 5), (2, (1, 90), 3)])
def test_appearance_kernel_equals_pydensecrf(backend: str, classes: int, size: tuple[int, int],
                                             srgb: float) -> None:
    """Without the smoothness kernel nothing is approximated but the order of sums."""
    image, probs = _photo(size), _random_probs(classes, size)
    params = DenseCRFParams(iterations=3, gaussian_compat=0, bilateral_srgb=srgb)
    got, expected = dense_crf(image, probs, params, backend), _reference(image, probs, params)
    assert np.abs(expected - probs).max() > 0.02
    np.testing.assert_allclose(got, expected, atol=2e-4)


@pytest.mark.parametrize('backend', OURS)
def test_agrees_with_pydensecrf(backend: str) -> None:
    """The smoothness kernel is a convolution here and a lattice there: nearly the same."""
    image, probs = _photo((90, 120)), _random_probs(3, (90, 120))
    got = dense_crf(image, probs, backend=backend)
    expected = _reference(image, probs, DenseCRFParams())
    changed = expected.argmax(0) != probs.argmax(0)
    same = got.argmax(0) == expected.argmax(0)
    assert changed.mean() > 0.05
    assert same[changed].mean() > 0.98 and same.mean() > 0.995
    assert np.abs(got - expected).mean() < 2e-3


@pytest.mark.parametrize('backend', OURS)
@pytest.mark.parametrize(('size', 'sxy'), [((13, 9), 1.0), ((1, 6), 2.5), ((4, 4), 3.0)])
def test_smoothness_kernel_equals_a_loop(backend: str, size: tuple[int, int], sxy: float) -> None:
    """One mean-field step with the Gaussian alone, pixel by pixel."""
    probs = _random_probs(3, size).astype(np.float64)
    places = np.array(list(itertools.product(range(size[0]), range(size[1]))))
    far = ((places[:, None] - places[None])**2).sum(-1)
    kernel = np.exp(-far / 2 / sxy**2)
    norm = 1 / np.sqrt(kernel.sum(1))
    message = (norm[:, None] * kernel * norm) @ probs.reshape(3, -1).T  # (N, C)
    logits = np.log(probs.reshape(3, -1)).T + 3 * message
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    params = DenseCRFParams(iterations=1, gaussian_sxy=sxy, bilateral_compat=0)
    got = dense_crf(_photo(size), probs, params, backend)
    np.testing.assert_allclose(got.reshape(3, -1).T, expected, atol=5e-4)


@pytest.mark.parametrize('backend', OURS)
def test_batch_equals_images_alone(backend: str) -> None:
    sizes = [(24, 31), (17, 40), (30, 12), (5, 5)]
    used = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0]]).bool()
    images, scores = torch.zeros(4, 3, 30, 40), torch.rand(4, 4, 30, 40)
    photos = [_photo(size, seed) for seed, size in enumerate(sizes)]
    for row, photo in zip(images, photos, strict=True):
        row[:, :photo.shape[0], :photo.shape[1]] = torch.from_numpy(photo).permute(2, 0, 1)
    params = DenseCRFParams(iterations=4)
    got = dense_crf_batch(images, scores, used, sizes, params, backend)
    for i, (height, width) in enumerate(sizes):
        alone = dense_crf(photos[i], scores[i, used[i], :height, :width].numpy(), params, 'numba')
        np.testing.assert_allclose(got[i, used[i], :height, :width], alone, atol=1e-4)
        assert got[i, ~used[i]].eq(0).all()
        assert got[i, :, height:].eq(0).all() and got[i, :, :, width:].eq(0).all()


def test_torch_takes_big_batches_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images, scores = torch.rand(3, 3, 9, 7) * 255, torch.rand(3, 2, 9, 7)
    arguments = (images, scores, torch.ones(3, 2).bool(), [(9, 7)] * 3, DenseCRFParams(), 'torch')
    whole = dense_crf_batch(*arguments)
    monkeypatch.setattr(MODULE, '_MAX_BYTES', 1)
    torch.testing.assert_close(dense_crf_batch(*arguments), whole)


@pytest.mark.parametrize('threads', [2, 3])
def test_threads_over_images_change_nothing(threads: int) -> None:
    """Whether the images outnumber the threads or, without the second and the last, do not."""
    sizes = [(24, 31), (17, 40), (30, 12), (0, 0)]
    used = torch.tensor([[1, 1, 1], [0, 0, 1], [1, 0, 1], [1, 1, 0]]).bool()
    images = torch.randint(0, 256, (4, 3, 30, 40), dtype=torch.uint8)
    batch = (images, torch.rand(4, 3, 30, 40), used, sizes, DenseCRFParams(), 'numba')
    torch.testing.assert_close(dense_crf_batch(*batch, threads), dense_crf_batch(*batch),
                               rtol=0, atol=0)


@pytest.mark.parametrize('threads', [2, 3, 7])
def test_threads_inside_an_image_change_nothing(threads: int) -> None:
    image, probs = _photo((50, 37)), _random_probs(4, (50, 37))
    alone = dense_crf(image, probs, backend='numba')
    np.testing.assert_array_equal(dense_crf(image, probs, backend='numba', threads=threads), alone)


@pytest.mark.parametrize('backend', (*OURS, 'pydensecrf'))
class TestEveryBackend:

    def test_moves_the_border_to_the_edge_of_the_image(self, backend: str) -> None:
        params = DenseCRFParams(bilateral_srgb=10)
        labels = dense_crf(_image(), _probs(), params, backend).argmax(0)
        assert (labels[:, :15] == 0).mean() > 0.99
        assert (labels[:, 15:] == 1).mean() > 0.99

    @pytest.mark.parametrize('size', [(1, 1), (1, 7), (13, 1), (17, 5)])
    def test_odd_sizes_sum_to_one(self, backend: str, size: tuple[int, int]) -> None:
        rng = np.random.default_rng(0)
        probs = rng.random((3, *size)).astype(np.float32)
        image = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
        refined = dense_crf(image, probs, backend=backend)
        assert refined.shape == probs.shape
        np.testing.assert_allclose(refined.sum(0), 1, atol=1e-4)

    def test_certain_probabilities_and_nan_are_finite(self, backend: str) -> None:
        probs = np.zeros((2, 24, 31), np.float32)
        probs[0] = 1
        probs[1, 0, 0] = np.nan
        refined = dense_crf(_image(), probs, backend=backend)
        assert np.isfinite(refined).all() and (refined.argmax(0) == 0).all()

    def test_infinite_scores_are_as_high_as_each_other(self, backend: str) -> None:
        probs = np.zeros((3, 24, 31), np.float32)
        probs[:2] = np.inf
        refined = dense_crf(_image(), probs, DenseCRFParams(iterations=0), backend)
        np.testing.assert_allclose(refined[:, 0, 0], [.5, .5, 0], atol=1e-6)

    def test_images_of_any_type(self, backend: str) -> None:
        scores, image = torch.from_numpy(_probs())[None], torch.from_numpy(_image())
        image = image.permute(2, 0, 1)[None]
        expected = dense_crf_batch(image, scores, torch.ones(1, 2).bool(), [(24, 31)],
                                   backend=backend)
        for other in (image.float() + 0.3, image.long(), image.bfloat16()):
            got = dense_crf_batch(other, scores, torch.ones(1, 2).bool(), [(24, 31)],
                                  backend=backend)
            torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)

    def test_nan_on_a_coarse_grid_counts_as_0(self, backend: str) -> None:
        probs = _probs()
        params = DenseCRFParams(downscale=4)
        probs[1, 5, 6] = 0
        expected = dense_crf(_image(), probs, params, backend)
        probs[1, 5, 6] = np.nan
        np.testing.assert_array_equal(dense_crf(_image(), probs, params, backend), expected)

    def test_scores_with_a_gradient(self, backend: str) -> None:
        scores = torch.from_numpy(_probs())[None].float().requires_grad_()
        image = torch.from_numpy(_image()).permute(2, 0, 1)[None]
        refined = dense_crf_batch(image, scores, torch.ones(1, 2).bool(), [scores.shape[-2:]],
                                  backend=backend)
        assert not refined.requires_grad

    def test_grey_image(self, backend: str) -> None:
        """One colour everywhere: the appearance kernel only smooths, constant scores stay."""
        probs = np.stack([np.full((12, 15), .7), np.full((12, 15), .3)])
        refined = dense_crf(np.full((12, 15, 3), 128, np.uint8), probs, backend=backend)
        assert (refined.argmax(0) == 0).all() and refined[0].min() > 0.7

    def test_one_class_none_and_no_iteration_return_the_input(self, backend: str) -> None:
        one = np.full((1, 24, 31), 0.3, np.float32)
        np.testing.assert_allclose(dense_crf(_image(), one, backend=backend), 1)
        assert dense_crf(_image(), one[:0], backend=backend).shape == (0, 24, 31)
        untouched = dense_crf(_image(), _probs(), DenseCRFParams(iterations=0), backend)
        np.testing.assert_allclose(untouched, _probs(), atol=1e-6)

    def test_coarse_grid_is_near(self, backend: str) -> None:
        image, probs = _photo((61, 80)), _random_probs(2, (61, 80))
        exact = dense_crf(image, probs, backend=backend)
        coarse = dense_crf(image, probs, DenseCRFParams(downscale=2), backend)
        assert coarse.shape == exact.shape and not np.array_equal(coarse, exact)
        np.testing.assert_allclose(coarse.sum(0), 1, atol=1e-4)
        assert (coarse.argmax(0) == exact.argmax(0)).mean() > 0.9


def test_torch_under_autocast() -> None:
    image, probs = _photo((20, 30)), _random_probs(2, (20, 30))
    expected = dense_crf(image, probs, backend='torch')
    with torch.autocast('cpu', torch.bfloat16):
        np.testing.assert_array_equal(dense_crf(image, probs, backend='torch'), expected)


def test_stride_shrinks_the_wide_kernel_only() -> None:
    params = DenseCRFParams().at_stride(4)
    assert params == DenseCRFParams(bilateral_sxy=67 / 4)


@pytest.mark.parametrize(('size', 'srgb'), [((500, 375), 3.0), ((1, 1), 0.5), ((2000, 30), 80.0)])
def test_keys_of_the_lattice_are_unique(size: tuple[int, int], srgb: float) -> None:
    """Coordinates of the corners of colour and place, and their neighbours, pack without carry."""
    lattice = lattice_of(*size, DenseCRFParams(bilateral_srgb=srgb))
    corners = itertools.product((0, size[1] - 1), (0, size[0] - 1), *[(0, 255)] * 3)
    vertices = set()
    for corner in corners:
        scaled = np.array(corner) * lattice.scales.astype(np.float64)
        place = [scaled[i:].sum() - (i * scaled[i - 1] if i else 0) for i in range(5)]
        base = np.floor(place)
        for move in itertools.product((-DIRECTIONS, 0, DIRECTIONS), repeat=5):
            vertices.add(tuple((base + move).astype(int)))
    strides = lattice.strides.tolist()
    keys = {lattice.origin + sum(int(c) * s for c, s in zip(vertex, strides, strict=True))
            for vertex in vertices}
    assert len(keys) == len(vertices)
    assert min(keys) >= 0 and max(keys) < 1 << lattice.bits


@pytest.mark.parametrize(('image', 'probs', 'message'), [
    (np.zeros((4, 4, 3), np.float32), np.ones((2, 4, 4)), 'uint8 RGB'),
    (np.zeros((4, 4), np.uint8), np.ones((2, 4, 4)), 'uint8 RGB'),
    (np.zeros((4, 4, 3), np.uint8), np.ones((2, 4, 5)), r'\(C, 4, 4\)'),
])
def test_input_errors(image: np.ndarray, probs: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dense_crf(image, probs)


@pytest.mark.parametrize('backend', OURS)
@pytest.mark.parametrize(('settings', 'message'), [
    (dict(bilateral_srgb=1e-3), 'raise the standard deviations'),
])
def test_lattice_errors(backend: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dense_crf(_image(), _probs(), DenseCRFParams(**settings), backend)


@pytest.mark.parametrize('backend', [*OURS, 'pydensecrf'])
@pytest.mark.parametrize(('settings', 'message'), [
    (dict(bilateral_srgb=0), 'bilateral_srgb of the dense CRF to be positive, but got 0'),
    (dict(bilateral_sxy=-3), 'bilateral_sxy .* positive, but got -3'),
    (dict(gaussian_sxy=float('nan')), 'gaussian_sxy .* positive, but got nan'),
    (dict(gaussian_compat=-1), 'gaussian_compat .* at least 0, but got -1'),
    (dict(iterations=-1), 'iterations .* whole number of at least 0, but got -1'),
    (dict(iterations=2.5), 'iterations .* whole number .* but got 2.5'),
    (dict(downscale=0), 'downscale .* whole number of at least 1, but got 0'),
])
def test_setting_errors(backend: str, settings: dict, message: str) -> None:
    """Some would end the interpreter."""
    with pytest.raises(ValueError, match=message):
        dense_crf(_image(), _probs(), DenseCRFParams(**settings), backend)


@pytest.mark.parametrize('backend', [*OURS, 'pydensecrf'])
@pytest.mark.parametrize(('change', 'message'), [
    (dict(images=torch.zeros(2, 3, 5, 5)), r'scores .*, but got \(2, 3, 5, 5\) and \(2, 4, 6, 7'),
    (dict(scores=torch.ones(4, 6, 7)), r'and \(4, 6, 7\)'),
    (dict(class_mask=torch.ones(2, 3).bool()), r'class_mask of shape \(2, 4\), but got \(2, 3'),
    (dict(sizes=[(6, 7)]), r'2 sizes of at most 6x7, but got \[\(6, 7\)\]'),
    (dict(sizes=[(6, 7), (6, 8)]), r'2 sizes of at most 6x7'),
])
def test_batch_errors(backend: str, change: dict, message: str) -> None:
    batch = dict(images=torch.zeros(2, 3, 6, 7), scores=torch.ones(2, 4, 6, 7),
                 class_mask=torch.ones(2, 4).bool(), sizes=[(6, 7)] * 2)
    with pytest.raises(ValueError, match=message):
        dense_crf_batch(**{**batch, **change}, backend=backend)


@pytest.mark.parametrize('backend', [*OURS, 'pydensecrf'])
@pytest.mark.parametrize('downscale', [1, 2])
def test_images_without_pixels(backend: str, downscale: int) -> None:
    params = DenseCRFParams(downscale=downscale)
    used = torch.ones(1, 2, dtype=torch.int)
    got = dense_crf_batch(torch.zeros(1, 3, 6, 7), torch.rand(1, 2, 6, 7), used, [(0, 0)], params,
                          backend)
    assert got.eq(0).all()
    got = dense_crf_batch(torch.zeros(1, 3, 0, 7), torch.rand(1, 2, 0, 7), used, [(0, 7)], params,
                          backend)
    assert got.shape == (1, 2, 0, 7)


def test_flipped_arrays() -> None:
    image, probs = _image()[:, ::-1], _probs()[:, :, ::-1]
    np.testing.assert_array_equal(dense_crf(image, probs), dense_crf(image.copy(), probs.copy()))


def test_backend_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="got 'cuda'"):
        dense_crf(_image(), _probs(), backend='cuda')
    monkeypatch.setattr(MODULE, '_works', lambda name: False)
    with pytest.raises(ImportError, match='pip install -U pydensecrf2'):
        dense_crf(_image(), _probs(), backend='pydensecrf')


@pytest.mark.parametrize(('there', 'expected'), [
    (('numba', 'pydensecrf'), 'numba'), (('pydensecrf', ), 'pydensecrf'), ((), 'torch')])
def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...],
                                  expected: str) -> None:
    monkeypatch.setattr(MODULE, '_works', lambda name: name in there)
    assert MODULE._choose_backend('auto', 'cpu') == expected
    assert MODULE._choose_backend('auto', 'cuda') == 'torch'


def test_kernels_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # The package read-only, and no home.
    monkeypatch.setattr('numba.core.caching.CompileResultCacheImpl._locator_classes', [])
    assert jit(_double)(2) == 4


def _double(number: int) -> int:
    return 2 * number


def test_a_backend_that_cannot_be_imported_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: str) -> None:
        raise ImportError('Numba needs another NumPy')

    MODULE._works.cache_clear()
    monkeypatch.setattr(MODULE, 'import_module', fail)
    try:
        assert MODULE._choose_backend('auto', 'cpu') == 'torch'
    finally:
        MODULE._works.cache_clear()
