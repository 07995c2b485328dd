"""COCO 2014 objects and COCO-Stuff (164k)."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from mmseg.datasets import COCOStuffDataset

from mmseg_dhr.datasets import COCOObjectDataset
from mmseg_dhr.formats import write_mask

from .common import (
    IGNORE,
    Drawn,
    boxes,
    regions_mask,
    save_index_png,
    save_list,
    save_photo,
    side_lengths,
)

# Category ids of COCO run to 90 and leave out ten; these are their places among the 80 that exist.
CATEGORIES = {1: 1, 11: 11, 13: 12, 27: 25, 46: 41, 67: 61, 90: 80}


def draw_coco(root: str | Path, ready: bool = True) -> Drawn:
    """COCO 2014 as it is downloaded; ``ready`` adds lists, tags and masks.

    One image of each split has no object, one is grey, one has a crowd, in each a small object
    lies on a large one.
    """
    drawn = Drawn(Path(root))
    rng = np.random.default_rng(3)
    ids = list(CATEGORIES)
    for split, count in (('train', 5), ('val', 3)):
        images: list[dict] = []
        annotations: list[dict] = []
        for number in range(1, count + 1):
            image_id = f'COCO_{split}2014_{number * 9:012d}'
            size = side_lengths(rng)
            mask = np.zeros(size, np.uint8)
            images.append(dict(id=number * 9, file_name=f'{image_id}.jpg', height=size[0],
                               width=size[1]))
            if number < count:
                chosen = [int(c) for c in rng.choice(ids, 3, replace=False)]
                annotations += _annotate(number * 9, mask, chosen, rng, crowd=number == 2)
            drawn.add(split, image_id, mask, COCOObjectDataset.METAINFO['classes'], background=0)
            save_photo(drawn.root / f'{split}2014/{image_id}.jpg', mask, rng, grey=number == 1)
        for index, annotation in enumerate(annotations):
            annotation['id'] = index + 1
        path = drawn.root / f'annotations/instances_{split}2014.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dict(images=images, annotations=annotations,
                                        categories=_categories())))
    if ready:
        _write_made(drawn)
    return drawn


def _categories() -> list[dict]:
    names = COCOObjectDataset.METAINFO['classes'][1:]
    return [dict(id=number, name=name)
            for number, name in zip(COCOObjectDataset.CATEGORY_IDS, names, strict=True)]


def _annotate(image: int, mask: np.ndarray, categories: list[int], rng: np.random.Generator,
              crowd: bool) -> list[dict]:
    """Two objects and a small third on the first, in a file order that hides the third."""
    first, second = boxes(rng, (mask.shape[0], mask.shape[1]))
    left, top, right, _ = first
    small = (left + 4, top + 4, right - 6, top + 14)
    for box, category in zip((first, second, small), categories, strict=True):
        mask[box[1]:box[3], box[0]:box[2]] = CATEGORIES[category]
    found = [_annotation(image, box, category, mask.shape)
             for box, category in zip((small, first, second), (categories[2], *categories[:2]),
                                      strict=True)]
    if crowd:
        found[2].update(iscrowd=1, segmentation=dict(size=list(mask.shape),
                                                     counts=_run_lengths(second, mask.shape)))
    return found


def _annotation(image: int, box: tuple[int, int, int, int], category: int,
                shape: tuple[int, ...]) -> dict:
    left, top, right, bottom = box
    corners = [left, top, right, top, right, bottom, left, bottom]
    return dict(image_id=image, category_id=category, iscrowd=0, segmentation=[corners],
                area=float((right - left) * (bottom - top)),
                bbox=[left, top, right - left, bottom - top])


def _run_lengths(box: tuple[int, int, int, int], shape: tuple[int, ...]) -> list[int]:
    """COCO's uncompressed run lengths: column after column, zeros first."""
    mask = np.zeros(shape, np.uint8)
    mask[box[1]:box[3], box[0]:box[2]] = 1
    flat = np.concatenate([[0], mask.T.ravel(), [2]])
    changes = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], changes])).tolist()


def _write_made(drawn: Drawn) -> None:
    for split in ('train', 'val'):
        ids = getattr(drawn, split)
        save_list(drawn.root / f'lists/{split}2014.txt', ids)
        save_list(drawn.root / f'lists/{split}2014_objects.txt', drawn.shown(split))
        for image_id in ids:
            write_mask(drawn.root / f'masks/{split}2014/{image_id}.png', drawn.masks[image_id],
                       COCOObjectDataset.METAINFO['palette'])
    drawn.write_tags()


def draw_stuff(root: str | Path, ready: bool = True) -> Drawn:
    """COCO-Stuff after mmseg's ``coco_stuff164k.py``: the files ``{id}.png`` of the download, with
    other labels, lie beside ``{id}_labelTrainIds.png``.
    """
    drawn = Drawn(Path(root))
    rng = np.random.default_rng(4)
    for split, count in (('train', 4), ('val', 2)):
        for number in range(1, count + 1):
            image_id = f'{number * 25 + (split == "val"):012d}'
            mask = regions_mask(rng, side_lengths(rng), rng.choice(171, 3, replace=False))
            drawn.add(split, image_id, mask, COCOStuffDataset.METAINFO['classes'])
            save_photo(drawn.root / f'images/{split}2017/{image_id}.jpg', mask, rng)
            folder = drawn.root / f'annotations/{split}2017'
            save_index_png(folder / f'{image_id}_labelTrainIds.png', mask)
            raw = np.where(mask == IGNORE, IGNORE, np.minimum(mask + 11, 181)).astype(np.uint8)
            save_index_png(folder / f'{image_id}.png', raw)
    if ready:
        drawn.write_tags()
    return drawn
