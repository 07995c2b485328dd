"""Speed of the operators, to compare one version of the package with another.

The ordinary tests do not collect this folder. It needs the package pytest-benchmark::

    pytest benchmarks --benchmark-autosave      # before a change
    pytest benchmarks --benchmark-compare       # after it, against the last run that was saved
    pytest benchmarks --benchmark-compare --benchmark-compare-fail=median:20%

Runs are saved below ``.benchmarks``, by machine; only those of one quiet machine can be compared.
References stand beside ours in each group, as a measure of the machine.
``tools/analysis_tools/benchmark.py`` compares the two more carefully.
"""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from mmseg_dhr.apis.benchmark import draw_photos
from mmseg_dhr.apis.benchmark.crf import batch_of
from mmseg_dhr.apis.benchmark.ot import RIVALS, pot_plans
from mmseg_dhr.apis.benchmark.photos import Photo, class_scores
from mmseg_dhr.apis.benchmark.timing import one_thread
from mmseg_dhr.apis.benchmark.walk import dense_walk
from mmseg_dhr.ops import DenseCRFParams, dense_crf, dense_crf_batch, pamr, sinkhorn
from mmseg_dhr.ops.random_walk import affinity_from_features, neighbour_offsets, random_walk

pytest.importorskip('pytest_benchmark')

CLASSES = (2, 21)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope='module')
def photo() -> Photo:
    """A scene of 320 px."""
    return draw_photos(1, 320)[0]


@pytest.mark.parametrize('backend', ['numba', 'pydensecrf'])
@pytest.mark.parametrize('classes', CLASSES)
def test_dense_crf(benchmark, photo: Photo, classes: int, backend: str) -> None:
    benchmark.group = f'dense CRF, {classes} classes'
    scores = class_scores(photo, classes)
    dense_crf(photo.image[:9, :9], scores[:, :9, :9], backend=backend)  # compiles
    result = benchmark(dense_crf, photo.image, scores, backend=backend)
    np.testing.assert_allclose(result.sum(0), 1, rtol=1e-4)


@pytest.mark.parametrize('classes', CLASSES)
def test_fast_dense_crf(benchmark, photo: Photo, classes: int) -> None:
    benchmark.group = f'dense CRF, {classes} classes'
    params = DenseCRFParams(downscale=2, bilateral_srgb=4.0)
    scores = class_scores(photo, classes)
    dense_crf(photo.image[:9, :9], scores[:, :9, :9], params, 'numba')  # compiles
    result = benchmark(dense_crf, photo.image, scores, params, 'numba')
    np.testing.assert_allclose(result.sum(0), 1, rtol=1e-4)


@pytest.mark.parametrize('backend', ['numba', 'torch'])
def test_dense_crf_batch(benchmark, backend: str) -> None:
    benchmark.group = 'dense CRF, 3 classes, 4 images of 160 px'
    batch = batch_of(draw_photos(4, 160), 3)
    result = benchmark(dense_crf_batch, *batch, backend=backend)
    assert result.shape == batch.scores.shape


@pytest.mark.parametrize('kind', RIVALS)
@pytest.mark.parametrize('classes', CLASSES)
class TestTransport:
    """Four images at once."""

    def scores(self, photo: Photo, classes: int) -> torch.Tensor:
        maps = torch.from_numpy(class_scores(photo.scaled(0.25), classes)).flatten(1)
        return (maps / maps.max())[None].repeat(4, 1, 1)

    def test_sinkhorn(self, benchmark, photo: Photo, classes: int, kind: str) -> None:
        benchmark.group = f'transport, {classes} classes, {kind}'
        updates = RIVALS[kind].updates
        plan = benchmark(sinkhorn, self.scores(photo, classes), num_iters=updates)
        torch.testing.assert_close(plan.sum((1, 2)), torch.ones(4))

    def test_pot(self, benchmark, photo: Photo, classes: int, kind: str) -> None:
        benchmark.group = f'transport, {classes} classes, {kind}'
        scores = self.scores(photo, classes).to(RIVALS[kind].dtype)
        costs = [(1 - one).numpy() for one in scores]
        assert len(benchmark(pot_plans, costs, RIVALS[kind])) == 4


def test_pamr(benchmark) -> None:
    benchmark.group = 'PAMR, 3 classes, 160 px'
    photo = draw_photos(1, 160)[0]
    image = torch.from_numpy(photo.image).permute(2, 0, 1)[None].float()
    scores = torch.from_numpy(class_scores(photo, 3))[None]
    inside = torch.ones(1, *photo.mask.shape, dtype=torch.bool)
    assert benchmark(pamr, image, scores, inside).shape == scores.shape


@pytest.mark.parametrize('classes', CLASSES)
@pytest.mark.parametrize('kind', ['sparse', 'dense'])
def test_random_walk(benchmark, photo: Photo, kind: str, classes: int) -> None:
    benchmark.group = f'random walk, {classes} classes, 40 x 40'
    batch = batch_of([photo.scaled(1 / 8)], classes)
    affinity = affinity_from_features(batch.images / 64)
    if kind == 'dense':
        walked = benchmark(dense_walk, batch.scores[0], affinity[0])
    else:
        walked = benchmark(random_walk, batch.scores, affinity, neighbour_offsets())[0]
    torch.testing.assert_close(walked.sum(0), torch.ones(40, 40), rtol=1e-3, atol=1e-3)
