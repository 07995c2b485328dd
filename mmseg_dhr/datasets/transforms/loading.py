"""Transforms that load what was made for an image: masks, activation maps, features."""
from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from ...formats import read_cam, read_features, read_mask
from ...ops.geometry import sample_features

__all__ = ['LoadCAM', 'LoadPseudoMask', 'LoadUSSFeatures']

_OLD = ' If an earlier training made it, of other photos or tags, remove its folder.'


def _image_id(results: dict) -> str:
    return results.get('img_id') or Path(results['img_path']).stem


@TRANSFORMS.register_module()
class LoadPseudoMask(BaseTransform):
    """Load the propagated mask M_base of an image as its label map.

    Place it after the image was loaded and before anything moves the image.

    Required Keys:

    - img
    - img_path or img_id

    Added Keys:

    - gt_seg_map (np.uint8 (H, W)): M_base, or 255 everywhere if there is none.
    - base_shares (np.float32 (num_classes,)): Share of the whole image's pixels that M_base gives
      to each class; None if there is no M_base.

    Modified Keys:

    - seg_fields

    Args:
        mask_dir (str, optional): Folder of ``{id}.png``. None means that there is no M_base at all.
        num_classes (int): Number of classes; label indices below it and 255 are valid.
        required (bool): Whether an image without a file is an error. Defaults to False.
    """

    def __init__(self, mask_dir: str | None, num_classes: int, required: bool = False) -> None:
        if mask_dir is None and required:
            raise ValueError('LoadPseudoMask expects `mask_dir` if `required` is set, '
                             'but got None.')
        self.mask_dir = mask_dir
        self.num_classes = num_classes
        self.required = required

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map`` and ``base_shares``.

        Raises:
            FileNotFoundError: If the folder, or a required file, does not exist.
            ValueError: If the mask has another size than the image or an unknown label.
        """
        size = results['img'].shape[:2]
        path = self._find(_image_id(results))
        results['base_shares'] = None
        if path is None:
            mask = np.full(size, 255, np.uint8)
        else:
            mask = self._read(path, size)
            counts = np.bincount(mask.ravel(), minlength=256)[:self.num_classes]
            results['base_shares'] = (counts / mask.size).astype(np.float32)
        results['gt_seg_map'] = mask
        fields = results.setdefault('seg_fields', [])
        if 'gt_seg_map' not in fields:
            fields.append('gt_seg_map')
        return results

    def _find(self, image_id: str) -> str | None:
        if self.mask_dir is None:
            return None
        path = os.path.join(self.mask_dir, f'{image_id}.png')
        if os.path.isfile(path):
            return path
        if not self.required and os.path.isdir(self.mask_dir):
            return None
        missing = path if os.path.isdir(self.mask_dir) else f'{self.mask_dir} (the whole folder)'
        raise FileNotFoundError(f'Mask of image {image_id!r} not found: {missing}. Make the masks '
                                'with `python tools/make_base_masks.py`, or set `mask_dir` to '
                                'where they are (None to train without).')

    def _read(self, path: str, size: tuple[int, int]) -> np.ndarray:
        mask = read_mask(path)
        if mask.shape != size:
            raise ValueError(f"{path}: expected a mask of the image's size {size[0]}x{size[1]} "
                             f'(HxW), but found {mask.shape[0]}x{mask.shape[1]}.{_OLD}')
        labels = np.unique(mask)
        unknown = labels[(labels >= self.num_classes) & (labels != 255)]
        if len(unknown):
            raise ValueError(f'{path}: expected label indices below {self.num_classes} or 255, '
                             f'but found {unknown[:5].tolist()}.{_OLD}')
        return mask

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(mask_dir={self.mask_dir!r}, '
                f'num_classes={self.num_classes}, required={self.required})')


@TRANSFORMS.register_module()
class LoadUSSFeatures(BaseTransform):
    """Load an image's cached USS features and sample them where the augmentation put the image.

    Place it after :class:`TrackGeometry`.

    Required Keys:

    - img
    - img_path or img_id
    - ori_shape
    - geometry

    Added Keys:

    - uss_features (float32 tensor (D, gh, gw)): Features at the centres of a grid over the
      augmented image.
    - uss_stride (int): With ``stride``, the step of the grid.

    Args:
        cache_dir (str): Folder of ``{id}.safetensors``.
        stride (int, optional): Side of a grid cell in pixels; the grid is ceil(H' / stride) x
            ceil(W' / stride).
        grid (tuple, optional): (gh, gw). Exactly one of ``stride`` and ``grid`` is given.
    """

    def __init__(self, cache_dir: str, stride: int | None = None,
                 grid: tuple[int, int] | None = None) -> None:
        given = [value for value in (stride, *(grid or ())) if value is not None]
        if (stride is None) == (grid is None) or min(given) <= 0:
            raise ValueError('LoadUSSFeatures expects either a positive `stride` or a `grid` of '
                             f'two positive numbers, but got stride={stride}, grid={grid}.')
        self.cache_dir = cache_dir
        self.stride = stride
        self.grid = None if grid is None else (grid[0], grid[1])

    def transform(self, results: dict) -> dict:
        """Add ``uss_features``.

        Raises:
            FileNotFoundError: If the cache lacks the image.
            ValueError: If nothing tracked the geometry, or the file is damaged.
        """
        if 'geometry' not in results:
            raise ValueError('LoadUSSFeatures expects `geometry`, but nothing recorded it. Put the '
                             'transforms that resize, flip or crop the image into '
                             "dict(type='TrackGeometry', transforms=[...]), ahead of this one.")
        image_id = _image_id(results)
        path = os.path.join(self.cache_dir, f'{image_id}.safetensors')
        if not os.path.isfile(path):
            raise FileNotFoundError(f'USS features of image {image_id!r} not found: {path}. Make '
                                    'them with `python tools/extract_uss_features.py`, or set '
                                    '`cache_dir` to where they are.')
        size, grid = self._window(*results['img'].shape[:2])
        if self.stride is not None:
            results['uss_stride'] = self.stride
        results['uss_features'] = sample_features(read_features(path), results['geometry'], size,
                                                  grid, results['ori_shape'][:2])
        return results

    def _window(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Part of the augmented image's plane that the grid covers, (H', W'), and its cells."""
        if self.stride is None:
            return (height, width), self.grid or (1, 1)
        # Whole cells, also across the border: they stay in step with the padded batch.
        rows, columns = -(-height // self.stride), -(-width // self.stride)
        return (rows * self.stride, columns * self.stride), (rows, columns)

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(cache_dir={self.cache_dir!r}, stride={self.stride}, '
                f'grid={self.grid})')


@TRANSFORMS.register_module()
class LoadCAM(BaseTransform):
    """Load an image's stored activation maps, for work on whole images.

    The maps do not follow augmentations.

    Required Keys:

    - img_path or img_id

    Added Keys:

    - cam (:class:`mmseg_dhr.formats.CAM`): ``labels`` int64 (n,), ``maps`` float16 (n, h, w).

    Args:
        cam_dir (str): Folder of ``{id}.npz``.
    """

    def __init__(self, cam_dir: str) -> None:
        self.cam_dir = cam_dir

    def transform(self, results: dict) -> dict:
        """Add ``cam``.

        Raises:
            FileNotFoundError: If there is no file for the image.
            ValueError: If the file is damaged.
        """
        image_id = _image_id(results)
        path = os.path.join(self.cam_dir, f'{image_id}.npz')
        if not os.path.isfile(path):
            raise FileNotFoundError(f'Activation maps of image {image_id!r} not found: {path}. '
                                    'Make them with `python tools/make_cams.py`, or set `cam_dir` '
                                    'to where they are.')
        results['cam'] = read_cam(path)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(cam_dir={self.cam_dir!r})'
