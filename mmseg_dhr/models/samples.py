"""What is read of the data samples of a batch, and how masks are handed to decode heads."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from mmseg.utils import SampleList
from torch import Tensor

from ..utils import UserError

__all__ = [
    'LateMask', 'base_masks_of', 'base_shares_of', 'pad_stack', 'sizes_of', 'tags_of', 'with_truth'
]


def tags_of(sample: Any) -> tuple[int, ...]:
    """The image's tags, label ids.

    Raises:
        UserError: If it has none.
    """
    if 'image_labels' not in sample.metainfo:
        raise UserError('Image-level labels are missing '
                        f'({sample.metainfo.get("img_path", "unknown image")}): wrap the training '
                        'data set in `TaggedDataset` and end its pipeline with `PackTaggedInputs`.')
    return tuple(sample.metainfo['image_labels'])


def sizes_of(data_samples: SampleList) -> list[tuple[int, int]]:
    """(height, width) of each image without padding."""
    return [tuple(s.metainfo['img_shape'][:2]) for s in data_samples]


def base_masks_of(data_samples: SampleList) -> Tensor | None:
    """M_base (B, H, W); None if a sample has no mask."""
    if not all('gt_sem_seg' in s for s in data_samples):
        return None
    return torch.stack([s.gt_sem_seg.data[0] for s in data_samples])


def base_shares_of(sample: Any) -> np.ndarray | None:
    """The share of the whole image that M_base gives to each class; None if it has no M_base.

    Raises:
        UserError: If something else than :class:`LoadPseudoMask` loaded M_base.
    """
    meta = sample.metainfo
    if 'base_shares' not in meta and meta.get('is_novel') is not False:  # which has its true mask
        raise UserError(f'{meta.get("img_path", "unknown image")}: its M_base came without '
                        '`base_shares`, which say what it lost. Load it with '
                        "dict(type='LoadPseudoMask', mask_dir=...) instead of LoadAnnotations, "
                        'and keep `base_shares` in the `meta_keys` of PackTaggedInputs.')
    return meta.get('base_shares')


def with_truth(masks: Tensor, data_samples: SampleList) -> Tensor:
    """M_dh, but the true masks of the base samples of weak-shot data (RETAB)."""
    base = [sample.metainfo.get('is_novel') is False for sample in data_samples]
    truth = base_masks_of(data_samples)
    if not any(base) or truth is None:
        return masks
    # The label in the middle of each cell of M_dh.
    truth = F.interpolate(truth[:, None].float(), size=masks.shape[-2:], mode='nearest-exact')
    rows = torch.tensor(base, device=masks.device)[:, None, None]
    return torch.where(rows, truth[:, 0].to(masks), masks)


class LateMask(SegDataSample):
    """A copy of a sample whose ground truth is one of the masks, made when a head reads it.

    Args:
        sample (SegDataSample): The original.
        masks (Callable): Gives the masks of the batch, (B, h, w).
        index (int): Which one.
    """

    def __init__(self, sample: SegDataSample, masks: Callable[[], Tensor], index: int) -> None:
        super().__init__(metainfo=sample.metainfo)
        self.set_data({name: value for name, value in sample.items() if name != 'gt_sem_seg'})
        object.__setattr__(self, '_late', lambda: masks()[index])  # no data field

    @property
    def gt_sem_seg(self) -> PixelData:
        """The mask, (1, h, w)."""
        return PixelData(data=self._late()[None])


def pad_stack(maps: Sequence[Tensor], size: Sequence[int] | None = None) -> Tensor:
    """Stack (D, h_i, w_i) maps, repeating the border at the bottom and right.

    Args:
        maps (Sequence[Tensor]): The maps.
        size (Sequence[int], optional): (h, w) of the result. Defaults to the largest map's.

    Returns:
        Tensor: (B, D, h, w).
    """
    height, width = size or (max(m.shape[-2] for m in maps), max(m.shape[-1] for m in maps))
    return torch.stack([
        F.pad(m[None], (0, width - m.shape[-1], 0, height - m.shape[-2]), mode='replicate')[0]
        for m in maps
    ])
