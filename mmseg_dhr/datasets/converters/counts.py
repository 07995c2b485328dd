"""How many images the benchmarks have."""
from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ['OFFICIAL_COUNTS', 'count_warning', 'print_count', 'print_tags']

OFFICIAL_COUNTS: dict[str, dict[str, tuple[int, ...]]] = {
    'PascalVOCDataset': dict(train=(10582, ), val=(1449, )),
    # Images that show an object, and all images.
    'COCOObjectDataset': dict(train=(82081, 82783), val=(40137, 40504)),
    'PascalContextDataset59': dict(train=(4998, ), val=(5105, )),
    'ADE20KDataset': dict(train=(20210, ), val=(2000, )),
    'COCOStuffDataset': dict(train=(118287, ), val=(5000, )),
}
"""Images of each split by the name of the data set's class; any of several numbers is right."""

_TITLES = {
    'PascalVOCDataset': 'VOC 2012 + SBD',
    'COCOObjectDataset': 'COCO 2014',
    'PascalContextDataset59': 'Pascal Context',
    'ADE20KDataset': 'ADE20K',
    'COCOStuffDataset': 'COCO-Stuff (164k)',
}


def count_warning(dataset: str, split: str, found: int) -> str | None:
    """What to tell a user whose data set has another size than the official one.

    A warning, for a subset is no mistake.

    Args:
        dataset (str): Name of the data set's class.
        split (str): 'train' or 'val'.
        found (int): Number of images.

    Returns:
        str | None: None if the number is right, or nothing is known of the data set.
    """
    expected = OFFICIAL_COUNTS.get(dataset, {}).get(split, ())
    if not expected or found in expected:
        return None
    return (f'warning: expected the {" or ".join(map(str, expected))} images of '
            f'{_TITLES[dataset]} ({split}), but found {found}')


def print_count(what: str | Path, found: int, dataset: str, split: str = 'train') -> None:
    """Say how many images there are, with a warning if that is not the official number."""
    print(f'{what}: {found} images')
    warning = count_warning(dataset, split, found)
    if warning:
        print(warning, file=sys.stderr)


def print_tags(what: str | Path, tags: Mapping[str, Sequence[int]], dataset: str,
               split: str = 'train') -> None:
    """The same, and how many tags they have."""
    print_count(what, len(tags), dataset, split)
    numbers = [len(row) for row in tags.values()]
    empty = numbers.count(0)
    print(f'tags: {sum(numbers) / max(len(numbers), 1):.2f} per image, at most '
          f'{max(numbers, default=0)}; {empty} images have none'
          f'{" (`allow_empty=True` in `labels` lets them in)" if empty else ""}')
