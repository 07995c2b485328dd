"""Recording what standard transforms do to an image."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmcv.transforms import (
    BaseTransform,
    CenterCrop,
    Compose,
    KeyMapper,
    MultiScaleFlipAug,
    Pad,
    RandomApply,
    RandomChoice,
    RandomChoiceResize,
    RandomFlip,
    RandomResize,
    Resize,
    TestTimeAug,
    TransformBroadcaster,
)
from mmseg.datasets import transforms as mmseg_transforms
from mmseg.registry import TRANSFORMS

from ...ops.geometry import AxisAffine

__all__ = ['TrackGeometry']

_RESIZES = (Resize, RandomResize, RandomChoiceResize, mmseg_transforms.ResizeToMultiple,
            mmseg_transforms.ResizeShortestEdge)
_CHOICES = (Compose, RandomApply, RandomChoice)
# They move the image in a way that is no axis-wise map, or that they do not tell.
_REFUSED = (CenterCrop, KeyMapper, MultiScaleFlipAug, TestTimeAug, TransformBroadcaster,
            mmseg_transforms.Albu, mmseg_transforms.BioMedical3DPad,
            mmseg_transforms.BioMedical3DRandomCrop, mmseg_transforms.BioMedical3DRandomFlip,
            mmseg_transforms.RandomMosaic, mmseg_transforms.RandomRotate,
            mmseg_transforms.RandomRotFlip)


@TRANSFORMS.register_module()
class TrackGeometry(BaseTransform):
    """Run standard transforms and record what they do to the image's geometry.

    Tracked: the Resize family, RandomFlip, RandomCrop and Pad (right and bottom), also inside
    Compose, RandomApply and RandomChoice. Any other transform must leave pixels where they are; one
    that changes the image's size, or is known to move pixels (RandomRotate, Albu, ...), is an
    error.

    Required Keys:

    - img

    Added Keys:

    - geometry (:class:`mmseg_dhr.ops.geometry.AxisAffine`): Map from the resulting image's
      coordinates to those of the image given.

    Args:
        transforms (Sequence[dict]): Configs of the transforms.

    Raises:
        ValueError: If a transform cannot be tracked.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any] | Callable]) -> None:
        self.transforms = _track(Compose(list(transforms)))

    def transform(self, results: dict) -> dict | None:
        """Apply the transforms; sets ``geometry``."""
        results['geometry'] = AxisAffine.identity()
        return self.transforms(results)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.transforms})'


class _Step:
    """One transform whose effect is composed into ``results['geometry']``."""

    def __init__(self, transform: Callable) -> None:
        if isinstance(transform, _REFUSED):
            raise ValueError(f'TrackGeometry cannot track {type(transform).__name__}. Use Resize, '
                             'RandomResize, RandomChoiceResize, ResizeShortestEdge, RandomFlip, '
                             'RandomCrop, Pad and transforms of colour, or, if nothing reads the '
                             'geometry, put it outside of TrackGeometry.')
        self.transform = transform

    def __call__(self, results: dict) -> dict | None:
        before, geometry = results['img'].shape[:2], results['geometry']
        if isinstance(self.transform, mmseg_transforms.RandomCrop):
            results, (top, _, left, _) = _crop(self.transform, results)
            step = AxisAffine.crop(top, left)
        else:
            results = self.transform(results)
            if results is None:
                return None
            step = self._step(results, before)
        results['geometry'] = geometry.compose(step)
        return results

    def _step(self, results: dict, before: tuple[int, int]) -> AxisAffine:
        after = results['img'].shape[:2]
        if isinstance(self.transform, _RESIZES):
            return AxisAffine.resize(before, after)
        if isinstance(self.transform, RandomFlip):
            return AxisAffine.flip(before, results['flip_direction']) if results['flip'] \
                else AxisAffine.identity()
        if after != before and not isinstance(self.transform, Pad):
            raise ValueError(f'TrackGeometry cannot track {type(self.transform).__name__}: it '
                             f"changed the image's size from {before} to {after}.")
        return AxisAffine.identity()

    def __repr__(self) -> str:
        return repr(self.transform)


def _track(transform: Callable) -> Callable:
    """Replace the leaves of nested transforms by steps that record."""
    if not isinstance(transform, _CHOICES):
        return _Step(transform)
    children = transform.transforms
    transform.transforms = [_track(child) for child in children] if isinstance(children, list) \
        else _track(children)
    return transform


def _crop(transform: mmseg_transforms.RandomCrop,
          results: dict) -> tuple[dict, tuple[int, int, int, int]]:
    """Run the crop and learn its window, which it keeps to itself."""
    windows = []
    choose = transform.crop_bbox

    def record(results: dict) -> tuple[int, int, int, int]:
        windows.append(choose(results))
        return windows[-1]

    transform.crop_bbox = record
    try:
        results = transform(results)
    finally:
        del transform.crop_bbox  # the class's method is in force again
    return results, windows[-1]
