"""VOC 2012 with SBD, and Pascal Context (VOC 2010)."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from mmseg.datasets import PascalContextDataset59, PascalVOCDataset

from mmseg_dhr.formats import write_mask

from .common import (
    IGNORE,
    Drawn,
    objects_mask,
    regions_mask,
    save_index_png,
    save_list,
    save_photo,
    side_lengths,
)

VOC_CLASSES = PascalVOCDataset.METAINFO['classes']
VOC_TRAIN = ['2007_000032', '2007_000039']
VOC_AUG = ['2008_000008', '2009_000012', '2010_000001']
VOC_VAL = ['2007_000033', '2007_000042']
DIFFICULT = 'chair'  # an object of no mask, in every XML of the train part


def draw_voc(root: str | Path, ready: bool = True) -> Drawn:
    """VOC 2012 after mmseg's ``voc_aug.py``; ``ready`` adds trainaug.txt and completes the masks.

    The masks of VOC have borders of 255 and a palette; SBD has neither, and lacks one image of
    VOC's train part.
    """
    drawn = Drawn(Path(root))
    rng = np.random.default_rng(0)
    palette = PascalVOCDataset.METAINFO['palette']
    for split, part, ids in (('train', 'train', VOC_TRAIN), ('train', 'aug', VOC_AUG),
                             ('val', 'val', VOC_VAL)):
        for image_id in ids:
            mask = objects_mask(rng, side_lengths(rng), rng.choice(range(1, 21), 2, replace=False),
                                border=2)
            drawn.add(split, image_id, mask, VOC_CLASSES, background=0)
            save_photo(drawn.root / f'JPEGImages/{image_id}.jpg', mask, rng)
            if part != 'aug':
                write_mask(drawn.root / f'SegmentationClass/{image_id}.png', mask, palette)
            if image_id != VOC_TRAIN[0] or ready:
                save_index_png(drawn.root / f'SegmentationClassAug/{image_id}.png', mask)
            _write_xml(drawn, image_id)
        save_list(drawn.root / f'ImageSets/Segmentation/{part}.txt', ids)
    if ready:
        save_list(drawn.root / 'ImageSets/Segmentation/trainaug.txt', drawn.train)
    return drawn


def _write_xml(drawn: Drawn, image_id: str) -> None:
    """An annotation of boxes; train images have a difficult object beside those of the mask."""
    objects = [(name, 0) for name in drawn.tags[image_id] for _ in range(2)]
    if image_id in VOC_TRAIN:
        objects.append((DIFFICULT, 1))
    text = ''.join(
        f'<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>1</xmin>'
        '<ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox><part><name>head</name></part></object>'
        for name, difficult in objects)
    path = drawn.root / f'Annotations/{image_id}.xml'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'<annotation><filename>{image_id}.jpg</filename>{text}</annotation>')


def draw_context(root: str | Path, ready: bool = True) -> Drawn:
    """Pascal Context after mmseg's ``pascal_context.py``: 0 in the files is no class."""
    drawn = Drawn(Path(root))
    rng = np.random.default_rng(1)
    classes = PascalContextDataset59.METAINFO['classes']
    for split, ids in (('train', ['2008_000002', '2008_000008', '2010_000513', '2010_006079']),
                       ('val', ['2008_000003', '2010_000001'])):
        for image_id in ids:
            mask = regions_mask(rng, side_lengths(rng), rng.choice(59, 3, replace=False))
            drawn.add(split, image_id, mask, classes)
            save_photo(drawn.root / f'JPEGImages/{image_id}.jpg', mask, rng)
            save_index_png(drawn.root / f'SegmentationClassContext/{image_id}.png',
                           np.where(mask == IGNORE, 0, mask + 1).astype(np.uint8))
        save_list(drawn.root / f'ImageSets/SegmentationContext/{split}.txt', ids)
    if ready:
        drawn.write_tags()
    return drawn
