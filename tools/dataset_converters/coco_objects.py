"""Prepare COCO 2014 for segmentation of its 80 objects.

Reads annotations/instances_{train,val}2014.json and writes, below the same folder,

    lists/{split}.txt            all images
    lists/{split}_objects.txt    those that show an object
    image_labels.json            tags of the training images: the classes of all objects
    masks/{split}/{id}.png       0 = background, 1 to 80; smaller objects lie on larger ones, and
                                 crowds count as their class

Masks are drawn in several processes; a run that was killed goes on where it stopped. Training reads
no mask: those of val are for testing, those of train for scoring pseudo-labels.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmseg_dhr.datasets import COCOObjectDataset
from mmseg_dhr.datasets.converters import (
    cores,
    print_count,
    print_tags,
    read_instances,
    write_list,
    write_object_masks,
    write_tags,
)
from mmseg_dhr.utils.cli import friendly_errors, positive_int

SPLITS = ('train2014', 'val2014')
NAME = 'COCOObjectDataset'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', type=Path, help='folder such as data/coco')
    parser.add_argument('--splits', nargs='+', choices=SPLITS, default=SPLITS,
                        help='what to prepare (default: both)')
    parser.add_argument('--no-masks', action='store_true', help='lists and tags alone')
    parser.add_argument('--jobs', type=positive_int, default=cores(),
                        help='processes (default: all cores)')
    parser.add_argument('--overwrite', action='store_true',
                        help='replace masks that were drawn from another JSON file')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser.parse_args(argv)


def prepare(args: argparse.Namespace, split: str) -> None:
    """Write everything of one split."""
    instances = read_instances(args.root / f'annotations/instances_{split}.json')
    kind = split.removesuffix('2014')
    for name, ids in ((split, list(instances.images)),
                      (f'{split}_objects', instances.with_objects)):
        write_list(args.root / f'lists/{name}.txt', ids)
        print_count(args.root / f'lists/{name}.txt', len(ids), NAME, kind)
    if kind == 'train':
        out = args.root / 'image_labels.json'
        tags = {image_id: image.tags for image_id, image in instances.images.items()}
        write_tags(out, tags, COCOObjectDataset.METAINFO['classes'])
        print_tags(out, tags, NAME)
    if not args.no_masks:
        folder = args.root / 'masks' / split
        drawn = write_object_masks(instances, folder, args.jobs, args.overwrite)
        print(f'{folder}: {len(instances.images)} masks, {drawn} of them drawn now')


def main(argv: Sequence[str] | None = None) -> None:
    """Write lists, tags and masks."""
    args = parse_args(argv)
    with friendly_errors(args.debug):
        for split in args.splits:
            prepare(args, split)


if __name__ == '__main__':
    main()
