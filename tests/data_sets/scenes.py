"""ADE20K."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from mmseg.datasets import ADE20KDataset

from .common import IGNORE, Drawn, regions_mask, save_index_png, save_photo, side_lengths


def draw_ade(root: str | Path, ready: bool = True) -> Drawn:
    """ADEChallengeData2016 as it is downloaded: no lists, 0 in the files is no class.

    The last training image shows none of the classes.
    """
    drawn = Drawn(Path(root))
    rng = np.random.default_rng(2)
    for split, folder, count in (('train', 'training', 4), ('val', 'validation', 2)):
        for number in range(1, count + 1):
            image_id = f'ADE_{split}_{number:08d}'
            labels = rng.choice(150, 3, replace=False)
            if number == 1:
                labels[0] = 7  # mmseg calls it 'bed ', with a blank
            mask = regions_mask(rng, side_lengths(rng), labels)
            if number == 4:
                mask[:] = IGNORE
            drawn.add(split, image_id, mask, ADE20KDataset.METAINFO['classes'])
            save_photo(drawn.root / f'images/{folder}/{image_id}.jpg', mask, rng)
            save_index_png(drawn.root / f'annotations/{folder}/{image_id}.png',
                           np.where(mask == IGNORE, 0, mask + 1).astype(np.uint8))
    if ready:
        drawn.write_tags()
    return drawn
