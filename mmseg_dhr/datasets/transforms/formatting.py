"""Packing a sample for the model."""
from __future__ import annotations

from collections.abc import Sequence

from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import TRANSFORMS

__all__ = ['PackTaggedInputs']


@TRANSFORMS.register_module()
class PackTaggedInputs(PackSegInputs):
    """Pack image, M_base, tags, geometry and USS features.

    As :class:`mmseg.datasets.PackSegInputs`, and ``uss_features``, if present, becomes
    ``data_sample.uss_features``, a PixelData with ``data`` of shape (D, gh, gw).

    Args:
        meta_keys (Sequence[str]): Keys to be packed as meta information, where present. Defaults to
            those of PackSegInputs and ``img_id``, ``image_labels``, ``base_shares``, ``geometry``,
            ``uss_stride``, ``is_novel``.
    """

    def __init__(self, meta_keys: Sequence[str] = (
            'img_path', 'seg_map_path', 'ori_shape', 'img_shape', 'pad_shape', 'scale_factor',
            'flip', 'flip_direction', 'reduce_zero_label', 'img_id', 'image_labels', 'base_shares',
            'geometry', 'uss_stride', 'is_novel')) -> None:
        super().__init__(meta_keys=tuple(meta_keys))

    def transform(self, results: dict) -> dict:
        """Give ``inputs`` and ``data_samples``."""
        packed = super().transform(results)
        if 'uss_features' in results:
            packed['data_samples'].uss_features = PixelData(data=results['uss_features'])
        return packed
