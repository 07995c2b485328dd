"""Write the tags of a config's training images, which its true masks show, as JSON.

For benchmarks such as Pascal Context, ADE20K and COCO-Stuff; training then reads no mask. The masks
are read as MMSegmentation reads them: where 0 in the files is no class, it is no tag, and all other
labels move down by one.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmseg_dhr.datasets.converters import (
    cores,
    labels_file,
    print_tags,
    tags_from_masks,
    training_images,
    write_tags,
)
from mmseg_dhr.utils import UserError, friendly_errors
from mmseg_dhr.utils.cli import add_config_arguments, config_from, positive_int


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config, such as configs/dhr/ade_r101.py')
    parser.add_argument('--out', type=Path, metavar='FILE',
                        help='JSON file (default: where the config reads its tags)')
    parser.add_argument('--min-pixels', type=positive_int, default=1,
                        help='that a class must have (default: %(default)s)')
    parser.add_argument('--jobs', type=positive_int, default=cores(),
                        help='processes (default: all cores)')
    add_config_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the masks and write the file."""
    args = parse_args(argv)
    with friendly_errors(args.debug):
        images = training_images(config_from(args))
        if not images.masks:
            raise UserError(f'{args.config}: no `score_masks`, the folder of the true masks.')
        out = args.out or labels_file(images)
        classes = images.dataset.metainfo['classes']
        tags = tags_from_masks(images.masks, classes, images.background_index,
                               images.dataset.reduce_zero_label, args.min_pixels, args.jobs)
        write_tags(out, tags, classes)
        print_tags(out, tags, type(images.dataset).__name__)


if __name__ == '__main__':
    main()
