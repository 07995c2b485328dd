"""The dense CRF against pydensecrf, and its backends and threads against one another."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import DenseCRFParams, dense_crf, dense_crf_batch
from .photos import Photo, class_scores
from .timing import Case, Row, Setup, one_thread, row

__all__ = ['Batch', 'agreement', 'batch_of', 'crf_rows', 'label_agreement']

# For the rows over image size, threads and batches: a photo shows two or three classes, mostly.
_CLASSES = 3
# The images that threads share
_SHARED = 8
_CONTESTANTS = {
    'exact': DenseCRFParams(),
    'fast, srgb 3.5': DenseCRFParams(downscale=2, bilateral_srgb=3.5),
    'fast, srgb 4': DenseCRFParams(downscale=2, bilateral_srgb=4.0),
}


def crf_rows(setup: Setup) -> Iterator[Row]:
    """Lines of the suite: class counts, image sizes, threads, the torch backend.

    One thread throughout, except where two are what is compared.

    Raises:
        ImportError: If a backend is not installed.
    """
    with one_thread():
        for classes in setup.classes:
            raced = setup.race(_against_reference(photo, classes, setup.seed)
                               for photo in setup.photos)
            for name, one in raced.items():
                yield row('crf', f'{name}: numba / pydensecrf', one, classes)
        for scale in setup.scales:
            raced = setup.race(_against_reference(photo.scaled(scale), _CLASSES, setup.seed,
                                                  ('exact', )) for photo in setup.photos)
            yield row('crf', f'exact, scale {scale:g}: numba / pydensecrf', raced['exact'],
                      _CLASSES)
        if not setup.cpu_time:
            yield from _thread_rows(setup)
        yield from _torch_rows(setup)


def agreement(ours: np.ndarray, reference: np.ndarray, before: np.ndarray) -> dict[str, float]:
    """How far two CRFs agree.

    Args:
        ours (np.ndarray): Class probabilities (C, H, W).
        reference (np.ndarray): The same of the reference.
        before (np.ndarray): What both were given.

    Returns:
        dict: ``equal %``, the pixels of the same label; ``changed %``, those whose label the
        reference changed; ``reproduced %``, the share of the latter to which ours gives the same
        label (NaN without any); ``mean |dQ|``, of the probabilities.
    """
    labels = reference.argmax(0)
    same = ours.argmax(0) == labels
    changed = labels != before.argmax(0)
    return {
        'equal %': 100 * float(same.mean()),
        'changed %': 100 * float(changed.mean()),
        'reproduced %': 100 * float(same[changed].mean()) if changed.any() else float('nan'),
        'mean |dQ|': float(np.abs(ours - reference).mean()),
    }


def label_agreement(ours: Tensor, reference: Tensor) -> dict[str, float]:
    """The same for a padded batch (B, C, H, W), whose padding is 0, without the input."""
    ours, reference = ours.cpu(), reference.cpu()
    inside = reference.sum(1) > 0
    same = (ours.argmax(1) == reference.argmax(1))[inside]
    difference = (ours - reference).abs().mean(1)[inside]
    return {'equal %': 100 * same.float().mean().item(), 'mean |dQ|': difference.mean().item()}


class Batch(NamedTuple):
    """Arguments of :func:`~mmseg_dhr.ops.dense_crf_batch`."""
    images: Tensor
    scores: Tensor
    class_mask: Tensor
    sizes: list[tuple[int, int]]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(self.images.to(device), self.scores.to(device), self.class_mask.to(device),
                     self.sizes)


def batch_of(photos: Sequence[Photo], classes: int, seed: int = 0) -> Batch:
    """Photos of any size and their class scores, padded to the largest."""
    sizes = [photo.mask.shape for photo in photos]
    height, width = (max(sides) for sides in zip(*sizes, strict=True))

    def pad(maps: np.ndarray) -> Tensor:
        gap = (0, width - maps.shape[2], 0, height - maps.shape[1])
        return F.pad(torch.from_numpy(np.ascontiguousarray(maps)), gap)

    images = torch.stack([pad(photo.image.transpose(2, 0, 1)) for photo in photos])
    scores = torch.stack([pad(class_scores(photo, classes, seed)) for photo in photos])
    return Batch(images, scores, torch.ones(len(photos), classes, dtype=torch.bool), sizes)


def _against_reference(photo: Photo, classes: int, seed: int,
                       names: Sequence[str] = tuple(_CONTESTANTS)) -> Case:
    scores = class_scores(photo, classes, seed)
    run = partial(dense_crf, photo.image, scores)
    return Case({name: partial(run, _CONTESTANTS[name], 'numba') for name in names},
                partial(run, DenseCRFParams(), 'pydensecrf'), photo.pixels,
                lambda ours, reference: agreement(ours, reference, scores))


def _thread_rows(setup: Setup) -> Iterator[Row]:
    for what, size in ((f'a batch of {_SHARED}', _SHARED), ('one image', 1)):
        raced = setup.race(_in_batch(group, setup, 'numba', setup.threads)
                           for group in setup.groups(size))
        yield row('crf', f'{what}: {setup.threads} threads / 1', raced['ours'], _CLASSES, size)


def _torch_rows(setup: Setup) -> Iterator[Row]:
    # On a CPU it is there for want of a compiler, and takes minutes for a batch of photos.
    scale = 0.5 if setup.device.type == 'cpu' else 1
    for size in setup.batches:
        raced = setup.race(_in_batch([photo.scaled(scale) for photo in group], setup, 'torch', 1)
                           for group in setup.groups(size))
        yield row('crf', f'torch on {setup.device} / numba', raced['ours'], _CLASSES, size)


def _in_batch(photos: Sequence[Photo], setup: Setup, backend: str, threads: int) -> Case:
    """A backend against numba on one thread, for a batch."""
    batch = batch_of(photos, _CLASSES, setup.seed)
    here = batch.to(setup.device) if backend == 'torch' else batch
    run: Callable[..., Any] = dense_crf_batch
    pixels = sum(photo.pixels for photo in photos) // len(photos)
    return Case({'ours': partial(run, *here, DenseCRFParams(), backend, threads)},
                partial(run, *batch, DenseCRFParams(), 'numba', 1), pixels, label_agreement)
