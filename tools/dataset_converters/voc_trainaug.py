"""List both training parts of PASCAL VOC, trainaug.txt = train.txt + aug.txt.

aug.txt, and the masks of that part, are those that the converter of MMSegmentation makes. It writes
a trainaug.txt as well, but in an order that changes from run to run.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmseg_dhr.formats import atomic_path
from mmseg_dhr.utils import UserError, friendly_errors

EXPECTED = 10582
LISTS = 'ImageSets/Segmentation'
HOW = ('`python tools/dataset_converters/voc_aug.py data/VOCdevkit data/VOCdevkit/VOCaug` of '
       'MMSegmentation makes aug.txt and SegmentationClassAug/ from VOC 2012 and SBD; train.txt '
       'and val.txt come with VOC 2012.')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', type=Path, help='folder such as data/VOCdevkit/VOC2012')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser.parse_args(argv)


def read_list(root: Path, name: str) -> list[str]:
    """Ids of ``{name}.txt``, in order, without blank lines.

    Raises:
        UserError: If the list is missing or empty.
    """
    path = root / LISTS / f'{name}.txt'
    if not path.is_file():
        raise UserError(f'{path}: no such list. {HOW}')
    ids = path.read_text(encoding='utf-8').split()
    if not ids:
        raise UserError(f'{path}: expected one image id per line, but the list is empty. {HOW}')
    return ids


def join_lists(root: Path) -> tuple[list[str], list[str], list[str]]:
    """The ids of train, of aug, and of both without repetition.

    Raises:
        UserError: If a list is missing, or an image is also one of val.
    """
    train, aug, val = (read_list(root, name) for name in ('train', 'aug', 'val'))
    both = list(dict.fromkeys([*train, *aug]))
    held_out = set(val)
    leaked = [image_id for image_id in both if image_id in held_out]
    if leaked:
        raise UserError(f'{root / LISTS}: expected no image of val.txt in train.txt or aug.txt, '
                        f'but found {len(leaked)}, such as {", ".join(leaked[:3])}. Take them off '
                        'the training lists.')
    return train, aug, both


def main(argv: Sequence[str] | None = None) -> None:
    """Write the list."""
    args = parse_args(argv)
    with friendly_errors(args.debug):
        train, aug, both = join_lists(args.root)
        out = args.root / LISTS / 'trainaug.txt'
        with atomic_path(out) as temporary:
            temporary.write_text(''.join(f'{image_id}\n' for image_id in both), encoding='utf-8')
    print(f'{out}: {len(both)} images (train {len(train)}, aug {len(aug)})')
    if len(both) != EXPECTED:
        print(f'warning: expected the {EXPECTED} images of VOC 2012 + SBD, but the lists hold '
              f'{len(both)}', file=sys.stderr)


if __name__ == '__main__':
    main()
