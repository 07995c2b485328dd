"""Prepare the augmented training set of PASCAL VOC where MMSegmentation's converter stops.

Writes ImageSets/Segmentation/trainaug.txt = train.txt + aug.txt (the converter writes one too, in
an order that changes from run to run) and copies into SegmentationClassAug/ the masks of those
training images that SBD does not have, so that one folder holds a mask for every image of the list.
"""
from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mmseg_dhr.datasets.converters import count_warning, read_list, write_list
from mmseg_dhr.formats import atomic_path
from mmseg_dhr.utils import UserError, friendly_errors

LISTS = 'ImageSets/Segmentation'
MASKS, AUG_MASKS = 'SegmentationClass', 'SegmentationClassAug'
HOW = ('`python tools/dataset_converters/voc_aug.py data/VOCdevkit data/VOCdevkit/VOCaug` of '
       f'MMSegmentation makes aug.txt and {AUG_MASKS}/ from VOC 2012 and SBD; train.txt, val.txt '
       f'and {MASKS}/ come with VOC 2012.')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', type=Path, help='folder such as data/VOCdevkit/VOC2012')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser.parse_args(argv)


def join_lists(root: Path) -> tuple[list[str], list[str], list[str]]:
    """The ids of train, of aug, and of both without repetition.

    Raises:
        UserError: If a list is missing, or an image is also one of val.
    """
    train, aug, val = (read_list(root / LISTS / f'{name}.txt', HOW)
                       for name in ('train', 'aug', 'val'))
    both = list(dict.fromkeys([*train, *aug]))
    held_out = set(val)
    leaked = [image_id for image_id in both if image_id in held_out]
    if leaked:
        raise UserError(f'{root / LISTS}: expected no image of val.txt in train.txt or aug.txt, '
                        f'but found {len(leaked)}, such as {", ".join(leaked[:3])}. Take them off '
                        'the training lists.')
    return train, aug, both


def complete_masks(root: Path, ids: Sequence[str]) -> int:
    """Copy to SegmentationClassAug what only SegmentationClass has; returns how many masks.

    Raises:
        UserError: If neither folder has the mask of an image.
    """
    if not (root / AUG_MASKS).is_dir():
        raise UserError(f'{root / AUG_MASKS}: no such folder. {HOW}')
    present = set(os.listdir(root / AUG_MASKS))
    wanted = [name for image_id in ids if (name := f'{image_id}.png') not in present]
    missing = [name for name in wanted if not (root / MASKS / name).is_file()]
    if missing:
        raise UserError(f'{root}: {len(missing)} of {len(ids)} training images have a mask neither '
                        f'in {AUG_MASKS}/ nor in {MASKS}/, such as {", ".join(missing[:3])}. {HOW}')
    for name in wanted:
        with atomic_path(root / AUG_MASKS / name) as temporary:
            shutil.copyfile(root / MASKS / name, temporary)
    return len(wanted)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the list and complete the masks."""
    args = parse_args(argv)
    with friendly_errors(args.debug):
        train, aug, both = join_lists(args.root)
        copied = complete_masks(args.root, both)
        out = args.root / LISTS / 'trainaug.txt'
        write_list(out, both)
    print(f'{out}: {len(both)} images (train {len(train)}, aug {len(aug)})')
    print(f'{args.root / AUG_MASKS}: {copied} masks of {MASKS}/ added')
    warning = count_warning('PascalVOCDataset', 'train', len(both))
    if warning:
        print(warning, file=sys.stderr)


if __name__ == '__main__':
    main()
