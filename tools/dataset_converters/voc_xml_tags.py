"""Write the tags of PASCAL VOC's images from the objects in Annotations/*.xml, as JSON.

An alternative to the classes that the masks show, for it needs no mask. Objects that are marked as
difficult count, as in the tag lists that the field uses (PSA's cls_labels.npy).
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmseg_dhr.datasets.converters import (
    print_tags,
    read_list,
    tags_from_voc_xml,
    write_tags,
)
from mmseg_dhr.utils import friendly_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', type=Path, help='folder such as data/VOCdevkit/VOC2012')
    parser.add_argument('--list', default='trainaug',
                        help='list of ImageSets/Segmentation (default: %(default)s)')
    parser.add_argument('--out', type=Path, metavar='FILE',
                        help='JSON file (default: ROOT/image_labels.json)')
    parser.add_argument('--no-difficult', action='store_true',
                        help='leave out objects that are marked as difficult')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the annotations and write the file."""
    # After this package: mmcv may be without its compiled operators.
    from mmseg.datasets import PascalVOCDataset

    args = parse_args(argv)
    with friendly_errors(args.debug):
        ids = read_list(args.root / f'ImageSets/Segmentation/{args.list}.txt',
                        '`python tools/dataset_converters/voc_trainaug.py` makes trainaug.txt.')
        classes = PascalVOCDataset.METAINFO['classes']
        tags = tags_from_voc_xml({i: args.root / f'Annotations/{i}.xml' for i in ids}, classes,
                                 not args.no_difficult)
        out = args.out or args.root / 'image_labels.json'
        write_tags(out, tags, classes)
        print_tags(out, tags, 'PascalVOCDataset', 'val' if args.list == 'val' else 'train')


if __name__ == '__main__':
    main()
