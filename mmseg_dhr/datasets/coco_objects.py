"""COCO's 80 object classes and a background."""
from __future__ import annotations

from typing import Any

import numpy as np
from mmseg.datasets import BaseSegDataset, COCOStuffDataset
from mmseg.registry import DATASETS

__all__ = ['COCOObjectDataset', 'colour_map']

# Categories 1 to 90 of COCO; these were planned but have no image.
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def colour_map(size: int) -> list[list[int]]:
    """The colours of PASCAL VOC's development kit: bits of the label, spread over r, g and b."""
    labels = np.arange(size)
    colours = np.zeros((size, 3), int)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((labels >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.tolist()


@DATASETS.register_module()
class COCOObjectDataset(BaseSegDataset):
    """COCO (2014) with 81 classes: background 0, and 80 objects in the order of their category ids.

    The category ids of COCO's JSON go to 90 and skip ten; :attr:`CATEGORY_IDS` are those of labels
    1 to 80. The masks are made by ``tools/dataset_converters/coco_objects.py``.

    Args:
        img_suffix (str): Defaults to '.jpg'.
        seg_map_suffix (str): Defaults to '.png'.
        **kwargs: Other arguments of ``mmseg.datasets.BaseSegDataset``.
    """

    METAINFO = dict(
        # The things of COCO-Stuff are the objects of COCO.
        classes=('background', *COCOStuffDataset.METAINFO['classes'][:80]),
        palette=colour_map(81))
    CATEGORY_IDS = tuple(number for number in range(1, 91) if number not in _UNUSED)

    def __init__(self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png',
                 **kwargs: Any) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)
