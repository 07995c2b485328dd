"""Fully connected CRF (Krähenbühl & Koltun, 2011), the boundary correction R_C of DHR.

The appearance kernel is summed on a permutohedral lattice (Adams et al., 2010). Three backends
share the model:

- ``numba``: compiled for the CPU, threads over images or inside one.
- ``torch``: any device, a batch of images at once.
- ``pydensecrf``: the reference, one thread.
"""
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib import import_module

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .crf.params import DenseCRFParams

__all__ = ['CRF_BACKENDS', 'DenseCRFParams', 'dense_crf', 'dense_crf_batch']

CRF_BACKENDS = ('auto', 'numba', 'torch', 'pydensecrf')

# What one pass of the torch backend may hold, in bytes, and what it took on photographs: for each
# pixel, and for each pixel and class
_MAX_BYTES = 4 << 30
_PIXEL_BYTES, _CLASS_BYTES = 600, 45
# A score enters as at least the one and at most the other: its logarithm and sums are finite.
_LEAST, _MOST = 1e-5, 1e30


def dense_crf(image: np.ndarray, probs: np.ndarray, params: DenseCRFParams = DenseCRFParams(),
              backend: str = 'auto', threads: int = 1) -> np.ndarray:
    """Refine the class probabilities of one image with its colours.

    Args:
        image (np.ndarray): uint8 (H, W, 3), RGB.
        probs (np.ndarray): Float (C, H, W), non-negative; normalised over classes here. Bring only
            the classes that the image shows: the cost is linear in C.
        params (DenseCRFParams): Settings.
        backend (str): See :func:`dense_crf_batch`. Defaults to 'auto'.
        threads (int): Threads of the numba backend. Defaults to 1.

    Returns:
        np.ndarray: Float32 (C, H, W), sums to 1 over classes; with fewer than two classes the
        input, normalised.

    Raises:
        ValueError: If the shapes or the image's type do not fit, or a setting is out of range.
        ImportError: If the backend is not installed.
    """
    _check(image, probs)
    classes, height, width = probs.shape
    if classes == 0:
        return np.zeros(probs.shape, np.float32)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    scores = torch.from_numpy(np.ascontiguousarray(probs, np.float32))
    return dense_crf_batch(pixels[None], scores[None],
                           torch.ones(1, classes, dtype=torch.bool), [(height, width)], params,
                           backend, threads)[0].numpy()


@torch.no_grad()
def dense_crf_batch(images: Tensor, scores: Tensor, class_mask: Tensor,
                    sizes: Sequence[tuple[int, int]], params: DenseCRFParams = DenseCRFParams(),
                    backend: str = 'auto', threads: int = 1) -> Tensor:
    """Refine the class scores of a batch of images with their colours.

    Args:
        images (Tensor): RGB 0..255, (B, 3, H, W).
        scores (Tensor): (B, C, H, W), non-negative; normalised over the used classes here. NaN
            counts as 0.
        class_mask (Tensor): Bool (B, C); only these channels enter. On the CPU it decides what is
            to be done without waiting for the device of the others.
        sizes (Sequence[tuple]): (height, width) of each image's valid part, from the top left.
        params (DenseCRFParams): Settings.
        backend (str): 'numba', 'torch' or 'pydensecrf'. Defaults to 'auto': torch for tensors that
            are not on the CPU, else the first of numba, pydensecrf and torch that is installed.
        threads (int): Threads of the numba backend: over images where there are enough, else
            inside each. Defaults to 1.

    Returns:
        Tensor: Float32 (B, C, H, W) on the device of ``scores``, sums to 1 over the used classes;
        0 outside the valid part and the used channels. An image with fewer than two classes is
        only normalised. It carries no gradient.

    Raises:
        ValueError: If the shapes do not fit, or a setting is out of range.
        ImportError: If the backend is not installed.
    """
    _check_batch(images, scores, class_mask, sizes)
    params.check()
    class_mask = class_mask.bool()
    backend = _choose_backend(backend, scores.device.type)
    if params.downscale > 1:
        return _downscaled(images, scores, class_mask, sizes, params, backend, threads)
    if backend == 'torch':
        return _torch(images, scores, class_mask, sizes, params)
    return _on_cpu(images, scores, class_mask, sizes, params, backend, threads)


def _on_cpu(images: Tensor, scores: Tensor, class_mask: Tensor, sizes: Sequence[tuple[int, int]],
            params: DenseCRFParams, backend: str, threads: int) -> Tensor:
    """Image by image. All work on an image is part of its job, so that threads share it."""
    if images.dtype != torch.uint8:
        images = images.float()
    pixels, given, used = (maps.cpu().numpy() for maps in (images, scores.float(), class_mask))
    refined = np.zeros(given.shape, np.float32)
    jobs: list[tuple] = []
    for i, (height, width) in enumerate(sizes):
        if height * width and used[i].any():
            part = i, slice(None), slice(height), slice(width)
            jobs.append((pixels[part], given[part], np.flatnonzero(used[i]), refined[part]))
    if backend == 'numba':
        _numba(jobs, params, threads)
    else:
        _pydensecrf(jobs, params)
    return torch.from_numpy(refined).to(scores.device)


def _numba(jobs: list[tuple], params: DenseCRFParams, threads: int) -> None:
    from .crf.numba_backend import Threads, mean_field
    with Threads(threads) as pool:
        apart = sum(len(channels) > 1 for _, _, channels, _ in jobs) >= threads
        run = functools.partial(mean_field, threads=Threads() if apart else pool)
        (pool if apart else Threads()).each(_refine, [(run, params, *job) for job in jobs])


def _pydensecrf(jobs: list[tuple], params: DenseCRFParams) -> None:
    from .crf.pydensecrf_backend import mean_field
    for job in jobs:
        _refine(mean_field, params, *job)


def _refine(mean_field: Callable[[np.ndarray, np.ndarray, DenseCRFParams], np.ndarray],
            params: DenseCRFParams, image: np.ndarray, scores: np.ndarray, channels: np.ndarray,
            out: np.ndarray) -> None:
    """Fill the used channels of ``out`` (C, H, W) for one image (3, H, W)."""
    probs = np.fmin(np.fmax(scores[channels], _LEAST), _MOST)  # fmax passes over a NaN
    probs /= probs.sum(0)
    if len(channels) > 1 and params.iterations:
        if image.dtype != np.uint8:
            image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        probs = mean_field(image.transpose(1, 2, 0), probs, params)
    out[channels] = probs


def _torch(images: Tensor, scores: Tensor, class_mask: Tensor, sizes: Sequence[tuple[int, int]],
           params: DenseCRFParams) -> Tensor:
    """As many images at once as memory allows."""
    from .crf.torch_backend import mean_field
    scores = _normalize(scores, class_mask, sizes)
    if params.iterations == 0:
        return scores
    images, enter = images.to(scores.device), class_mask.to(scores.device)
    used = class_mask.cpu()
    todo = [i for i, (height, width) in enumerate(sizes) if height * width and used[i].sum() > 1]
    height, width = scores.shape[-2:]
    pixel = _PIXEL_BYTES + _CLASS_BYTES * scores.shape[1]
    step = max(1, _MAX_BYTES // max(1, height * width * pixel))
    for part in (todo[i:i + step] for i in range(0, len(todo), step)):
        with torch.autocast(scores.device.type, enabled=False):
            scores[part] = mean_field(images[part].round().clamp(0, 255), scores[part],
                                      enter[part], [sizes[i] for i in part], params)
    return scores


def _choose_backend(backend: str, device: str) -> str:
    if backend not in CRF_BACKENDS:
        raise ValueError(f'Expected backend to be one of {CRF_BACKENDS}, but got {backend!r}.')
    if backend == 'auto':
        if device != 'cpu':
            return 'torch'
        return next((name for name in ('numba', 'pydensecrf') if _works(name)), 'torch')
    if not _works(backend):
        package = 'pydensecrf2' if backend == 'pydensecrf' else backend
        raise ImportError(f'The dense CRF was asked for its {backend} backend, which cannot be '
                          f"imported: `pip install -U {package}`, or set `backend='auto'`.")
    return backend


@functools.cache
def _works(backend: str) -> bool:
    """Whether it can be imported: a numba that is there may be too old for this NumPy."""
    try:
        import_module(f'.crf.{backend}_backend', __package__)
    except ImportError:
        return False
    return True


def _normalize(scores: Tensor, class_mask: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Positive, sums to 1 over the used classes; 0 elsewhere and in the padding."""
    used = class_mask.to(scores.device)[:, :, None, None]
    probs = torch.nan_to_num(scores.float()).clamp(_LEAST, _MOST) * used
    probs = probs / probs.sum(1, keepdim=True).clamp_min(1e-12)
    for one, (height, width) in zip(probs, sizes, strict=True):
        one[:, height:] = 0
        one[:, :, width:] = 0
    return probs


def _downscaled(images: Tensor, scores: Tensor, class_mask: Tensor,
                sizes: Sequence[tuple[int, int]], params: DenseCRFParams, backend: str,
                threads: int) -> Tensor:
    """The CRF on a coarser grid; its result scaled up. Each image on its own: sizes differ."""
    factor = params.downscale
    coarse = params.at_stride(factor)._replace(downscale=1)
    refined = torch.zeros_like(scores, dtype=torch.float32)
    for i, (height, width) in enumerate(sizes):
        if not height * width:
            continue
        part = (slice(i, i + 1), slice(None), slice(height), slice(width))
        small = -(-height // factor), -(-width // factor)
        pixels, probs = (F.interpolate(torch.nan_to_num(maps[part].float()), small, mode='area')
                         for maps in (images, scores))
        probs = dense_crf_batch(pixels, probs, class_mask[i:i + 1], [small], coarse, backend,
                                threads)
        refined[part] = F.interpolate(probs, (height, width), mode='bilinear')
    return refined


def _check_batch(images: Tensor, scores: Tensor, class_mask: Tensor,
                 sizes: Sequence[tuple[int, int]]) -> None:
    if scores.ndim != 4 or images.shape != (len(scores), 3, *scores.shape[2:]):
        raise ValueError('Expected images (B, 3, H, W) and scores (B, C, H, W), '
                         f'but got {tuple(images.shape)} and {tuple(scores.shape)}.')
    if class_mask.shape != scores.shape[:2]:
        raise ValueError(f'Expected a class_mask of shape {tuple(scores.shape[:2])}, '
                         f'but got {tuple(class_mask.shape)}.')
    height, width = scores.shape[2:]
    if len(sizes) != len(scores) or any(not 0 <= h <= height or not 0 <= w <= width
                                        for h, w in sizes):
        raise ValueError(f'Expected {len(scores)} sizes of at most {height}x{width}, '
                         f'but got {list(sizes)}.')


def _check(image: np.ndarray, probs: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError('Expected an uint8 RGB image of shape (H, W, 3), '
                         f'but got {image.dtype} {image.shape}.')
    if probs.ndim != 3 or probs.shape[1:] != image.shape[:2]:
        raise ValueError(f'Expected probs of shape (C, {image.shape[0]}, {image.shape[1]}), '
                         f'but got {probs.shape}.')
