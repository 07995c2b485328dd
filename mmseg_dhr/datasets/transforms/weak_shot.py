"""Masks for weak-shot training: the truth of base samples, something else for novel ones."""
from __future__ import annotations

import os

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from ...formats import read_mask
from .loading import LoadPseudoMask

__all__ = ['LoadMixedMask']


@TRANSFORMS.register_module()
class LoadMixedMask(BaseTransform):
    """Load the true mask of a base sample, another mask of a novel one (RETAB, Section 3).

    The truth is the data set's own mask, read as mmseg's ``LoadAnnotations`` does. That of a novel
    sample is never opened.

    Required Keys, as :class:`WeakShotDataset` gives them:

    - img
    - img_id
    - is_novel
    - seg_map_path, of base samples

    Added Keys:

    - gt_seg_map (np.uint8 (H, W))
    - base_shares (np.float32 (num_classes,)): Of novel samples, see :class:`LoadPseudoMask`.

    Modified Keys:

    - seg_fields

    Args:
        mask_dir (str, optional): Folder of masks ``{id}.png`` for novel samples, whatever made
            them; None ignores all their pixels.
        num_classes (int): Number of classes; label indices below it and 255 are valid.
        boundary_dir (str, optional): Folder of boundary maps ``{id}.png``, 8-bit grey, probability
            times 255. Pixels of novel samples that lie on a boundary are then ignored, for
            their masks are the least sure there. Defaults to None.
        boundary_threshold (float): What is a boundary (τ). Defaults to 0.5.
    """

    def __init__(self, mask_dir: str | None, num_classes: int, boundary_dir: str | None = None,
                 boundary_threshold: float = 0.5) -> None:
        self._truth = LoadAnnotations()
        self._masks = LoadPseudoMask(mask_dir, num_classes, required=mask_dir is not None)
        self.boundary_dir = boundary_dir
        self.boundary_threshold = boundary_threshold

    @property
    def mask_dir(self) -> str | None:
        """Folder of the novel samples' masks."""
        return self._masks.mask_dir

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map``.

        Raises:
            KeyError: If nothing says whether the sample is novel, or where its true mask is.
            FileNotFoundError: If a file is missing.
            ValueError: If a mask or boundary has another size than the image.
        """
        if 'is_novel' not in results:
            raise KeyError('LoadMixedMask needs `is_novel`: wrap the data set in WeakShotDataset '
                           'instead of TaggedDataset.')
        if not results['is_novel']:
            if 'seg_map_path' not in results:
                raise KeyError('LoadMixedMask needs the true masks of base samples: give the '
                               'wrapped data set `data_prefix.seg_map_path`.')
            return self._truth.transform(results)
        results = self._masks.transform(results)
        if self.boundary_dir is not None:
            results['gt_seg_map'][self._boundary(results)] = 255
        return results

    def _boundary(self, results: dict) -> np.ndarray:
        path = os.path.join(str(self.boundary_dir), f'{results["img_id"]}.png')
        if not os.path.isfile(path):
            raise FileNotFoundError(f'Boundary of image {results["img_id"]!r} not found: {path}. '
                                    'Make them with `python tools/make_boundaries.py`.')
        boundary = read_mask(path)
        if boundary.shape != results['gt_seg_map'].shape:
            raise ValueError(f'{path}: expected a boundary map of shape '
                             f'{results["gt_seg_map"].shape}, but found {boundary.shape}.')
        return boundary >= 255 * self.boundary_threshold

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(masks={self._masks}, '
                f'boundary_dir={self.boundary_dir!r}, '
                f'boundary_threshold={self.boundary_threshold})')
