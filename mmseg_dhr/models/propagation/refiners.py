from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from mmseg.registry import MODELS
from torch import Tensor

from ...ops import DenseCRFParams, dense_crf, pamr


@MODELS.register_module()
class DenseCRF:
    """R_C by a fully connected CRF, on whatever grid the scores come.

    The settings are meant for the image at full resolution; on a grid that is ``stride`` times
    coarser the appearance kernel shrinks with it.

    Args:
        workers (int): Processes that share a batch's images. Defaults to 0, this process alone.
        **params: Fields of :class:`mmseg_dhr.ops.DenseCRFParams`.

    Raises:
        ValueError: If a setting is unknown.
    """

    def __init__(self, workers: int = 0, **params: float) -> None:
        unknown = set(params) - set(DenseCRFParams._fields)
        if unknown:
            raise ValueError(f'Expected DenseCRF settings among {DenseCRFParams._fields}, '
                             f'but got {sorted(unknown)}.')
        self.params = DenseCRFParams(**params)  # type: ignore[arg-type]
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def __repr__(self) -> str:
        return f'DenseCRF{tuple(self.params)}'

    def __call__(self, images: Tensor, scores: Tensor, class_mask: Tensor,
                 sizes: Sequence[tuple[int, int]], stride: float = 1.0) -> Tensor:
        """Refine a batch.

        Args:
            images (Tensor): RGB 0..255, (B, 3, h, w), on the grid of the scores.
            scores (Tensor): (B, C, h, w), non-negative.
            class_mask (Tensor): Bool (B, C); only these channels enter.
            sizes (Sequence[tuple]): (height, width) of each image's valid part on this grid.
            stride (float): Grid step in image pixels.

        Returns:
            Tensor: (B, C, h, w); 0 outside the valid part and the used channels.
        """
        params = self.params.at_stride(stride)
        rgb = images.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        probs = scores.float().cpu().numpy()
        used = class_mask.cpu().numpy()
        refined = np.zeros_like(probs)
        jobs, places = [], []
        for i, (height, width) in enumerate(sizes):
            channels = np.flatnonzero(used[i])
            if len(channels):
                jobs.append((rgb[i, :height, :width], probs[i, channels, :height, :width], params))
                places.append((i, channels, slice(height), slice(width)))
        for place, result in zip(places, self._run(jobs), strict=True):
            refined[place] = result
        return torch.from_numpy(refined).to(scores.device)

    def _run(self, jobs: list[tuple]) -> list[np.ndarray]:
        if self.workers < 1 or len(jobs) < 2:
            return [dense_crf(*job) for job in jobs]
        if self._executor is None:
            # spawn: forking a process that runs threads or a GPU is not safe
            self._executor = ProcessPoolExecutor(
                self.workers, mp_context=multiprocessing.get_context('spawn'))
        return list(self._executor.map(dense_crf, *zip(*jobs, strict=True)))

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_executor': None}  # processes cannot be copied


@MODELS.register_module()
class PAMR:
    """R_C by pixel-adaptive mask refinement: lighter than a dense CRF, and it stays on the device.

    Args:
        num_iters (int): Rounds. Defaults to 10.
        dilations (Sequence[int]): Distances of the neighbours in cells of the grid.
            Defaults to (1, 2, 4, 8, 12, 24).
    """

    def __init__(self, num_iters: int = 10,
                 dilations: Sequence[int] = (1, 2, 4, 8, 12, 24)) -> None:
        if num_iters < 1 or not dilations or min(dilations) < 1:
            raise ValueError('Expected num_iters and all dilations to be positive, '
                             f'but got {num_iters} and {tuple(dilations)}.')
        self.num_iters = num_iters
        self.dilations = tuple(dilations)

    def __repr__(self) -> str:
        return f'PAMR({self.num_iters}, {self.dilations})'

    def __call__(self, images: Tensor, scores: Tensor, class_mask: Tensor,
                 sizes: Sequence[tuple[int, int]], stride: float = 1.0) -> Tensor:
        """Refine a batch; see :meth:`DenseCRF.__call__`. ``stride`` is not read."""
        inside = torch.zeros(images.shape[0], *images.shape[-2:], dtype=torch.bool,
                             device=images.device)
        for row, (height, width) in zip(inside, sizes, strict=True):
            row[:height, :width] = True
        total = scores.sum(1, keepdim=True).clamp_min(1e-12)
        refined = pamr(images, scores / total, inside, self.num_iters, self.dilations)
        return refined * class_mask[:, :, None, None]
