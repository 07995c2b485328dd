from __future__ import annotations

from collections.abc import Sequence

import torch
from mmseg.registry import MODELS
from torch import Tensor

from ...ops import CRF_BACKENDS, DenseCRFParams, dense_crf_batch, pamr
from .dhr import valid_mask


@MODELS.register_module()
class DenseCRF:
    """R_C by a fully connected CRF, on whatever grid the scores come.

    The settings are meant for the image at full resolution; on a grid that is ``stride`` times
    coarser the appearance kernel shrinks with it.

    Args:
        backend (str): 'numba', 'torch' or 'pydensecrf'; see
            :func:`mmseg_dhr.ops.dense_crf_batch`. Defaults to 'auto'.
        threads (int, optional): Threads of the numba backend. Defaults to None, as many as
            PyTorch uses (``OMP_NUM_THREADS``).
        **params: Fields of :class:`mmseg_dhr.ops.DenseCRFParams`.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    def __init__(self, backend: str = 'auto', threads: int | None = None, **params: float) -> None:
        unknown = set(params) - set(DenseCRFParams._fields)
        if unknown:
            raise ValueError(f'Expected DenseCRF settings among {DenseCRFParams._fields}, '
                             f'but got {sorted(unknown)}.')
        if backend not in CRF_BACKENDS:
            raise ValueError(f'Expected backend to be one of {CRF_BACKENDS}, but got {backend!r}.')
        if threads is not None and threads < 1:
            raise ValueError(f'Expected at least one thread, but got {threads}.')
        self.params = DenseCRFParams(**params)  # type: ignore[arg-type]
        self.params.check()
        self.backend = backend
        self.threads = threads

    def __repr__(self) -> str:
        return f'DenseCRF{tuple(self.params)}'

    def __call__(self, images: Tensor, scores: Tensor, class_mask: Tensor,
                 sizes: Sequence[tuple[int, int]], stride: float = 1.0) -> Tensor:
        """Refine a batch.

        Args:
            images (Tensor): RGB 0..255, (B, 3, h, w), on the grid of the scores.
            scores (Tensor): (B, C, h, w), non-negative.
            class_mask (Tensor): Bool (B, C), on the CPU best; only these channels enter.
            sizes (Sequence[tuple]): (height, width) of each image's valid part on this grid.
            stride (float): Grid step in image pixels.

        Returns:
            Tensor: (B, C, h, w); 0 outside the valid part and the used channels.

        Raises:
            ImportError: If the backend is not installed.
        """
        return dense_crf_batch(images, scores, class_mask, sizes, self.params.at_stride(stride),
                               self.backend, self.threads or torch.get_num_threads())


@MODELS.register_module()
class PAMR:
    """R_C by pixel-adaptive mask refinement: no lattice to build, and it stays on the device.

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
        inside = valid_mask(images, sizes, images.shape[-2:])
        total = scores.sum(1, keepdim=True).clamp_min(1e-12)
        refined = pamr(images, scores / total, inside, self.num_iters, self.dilations)
        return refined * class_mask[:, :, None, None].to(refined.device)
