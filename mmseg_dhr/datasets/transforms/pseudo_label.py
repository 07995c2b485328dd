"""DHR as a step of a data pipeline, from what was computed before."""
from __future__ import annotations

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmseg.registry import MODELS, TRANSFORMS

from ...models.propagation import PropagationInputs

__all__ = ['DHRPseudoLabel']


@TRANSFORMS.register_module()
class DHRPseudoLabel(BaseTransform):
    """Replace M_base by DHR's mask M_dh, computed from cached maps of the whole image.

    The offline way in: any unmodified mmseg segmentor trains on the result. Place it before the
    image is augmented::

        dict(type='LoadImageFromFile'),
        dict(type='LoadPseudoMask', mask_dir=..., num_classes=21),
        dict(type='LoadCAM', cam_dir=...),
        dict(type='TrackGeometry', transforms=[]),
        dict(type='LoadUSSFeatures', cache_dir=..., stride=8),
        dict(type='DHRPseudoLabel', propagation=dict(type='DHRPropagation', num_classes=21)),

    Required Keys: img (BGR), image_labels, cam, uss_features; optional wss_features (tensor
    (D, h, w), without it Step 3 is skipped), gt_seg_map and base_shares (M_base).

    Modified Keys: gt_seg_map (uint8 (H, W)), seg_fields.

    Args:
        propagation (dict): Config of the propagation; its grid step is one pixel unless given.
    """

    def __init__(self, propagation: dict) -> None:
        self.propagation = MODELS.build({'stride': 1, **propagation})

    def transform(self, results: dict) -> dict:
        """Compute ``gt_seg_map``.

        Raises:
            KeyError: If a required key is missing; names the transform that makes it.
        """
        for key, maker in (('image_labels', 'TaggedDataset'), ('cam', 'LoadCAM'),
                           ('uss_features', 'LoadUSSFeatures')):
            if key not in results:
                raise KeyError(f'DHRPseudoLabel expects `{key}` ({results.get("img_path")}): '
                               f'put `{maker}` before it.')
        image = torch.from_numpy(np.ascontiguousarray(results['img'][..., ::-1]))
        shares = results.get('base_shares')
        base = results.get('gt_seg_map')
        result = self.propagation(
            PropagationInputs(
                images=image.permute(2, 0, 1)[None].float(),
                sizes=[(image.shape[0], image.shape[1])],
                tags=[results['image_labels']],
                cam=self._cam(results),
                uss=results['uss_features'][None].float(),
                wss=[results['wss_features'][None].float()] if 'wss_features' in results else [],
                base=None if base is None else torch.from_numpy(base)[None],
                base_shares=[shares]))
        mask = torch.nn.functional.interpolate(
            result.final[None].float(), size=tuple(image.shape[:2]), mode='nearest')
        results['gt_seg_map'] = mask[0, 0].byte().numpy()
        if 'gt_seg_map' not in results.setdefault('seg_fields', []):
            results['seg_fields'].append('gt_seg_map')
        return results

    def _cam(self, results: dict) -> torch.Tensor:
        """The stored maps of the tags, put in their channels: (1, K, h, w)."""
        labels, maps = results['cam']
        foreground = self.propagation.foreground
        cam = torch.zeros((1, len(foreground), *maps.shape[1:]))
        for label, cam_map in zip(labels.tolist(), maps, strict=True):
            cam[0, foreground.index(label)] = torch.from_numpy(cam_map.astype(np.float32))
        return cam
