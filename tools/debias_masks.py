"""Remove biased objects from masks of any method, after MARS. One palette PNG per image.

Objects that always come with a class (rails with trains) are background in other images; cached USS
features (`python tools/extract_uss_features.py`) tell which they are.
"""
from __future__ import annotations

import argparse
import os

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmseg_dhr.apis.build import build_dataset
from mmseg_dhr.apis.debiasing import DebiasSettings, write_debiased_masks
from mmseg_dhr.utils.cli import add_common_arguments, config_from, friendly_errors, positive_int


def parse_args() -> argparse.Namespace:
    defaults = DebiasSettings()
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file; its pseudo_label_dataset is used')
    parser.add_argument('masks', help='folder of masks {image id}.png')
    parser.add_argument('out_dir', help='folder for {image id}.png')
    parser.add_argument('--features', required=True, metavar='FOLDER',
                        help='cached USS features of all images')
    parser.add_argument('--clusters', type=positive_int, default=defaults.clusters,
                        help='clusters of each class in an image (default: %(default)s)')
    parser.add_argument('--keep', type=float, default=defaults.keep,
                        help='share of the centroids of a class, those least like the background, '
                        'that shows what to keep (default: %(default)s)')
    parser.add_argument('--threshold', type=float, default=defaults.threshold,
                        help='similarity to them, 0 = least of the image, 1 = most, below which a '
                        'pixel is removed (default: %(default)s)')
    parser.add_argument('--no-center', action='store_true',
                        help='do not subtract the mean feature of the data set')
    parser.add_argument('--ignore', action='store_true',
                        help='removed pixels become 255 instead of background')
    add_common_arguments(parser)
    args = parser.parse_args()
    if not 0 < args.keep <= 1:
        parser.error('--keep must be above 0, and 1 at most')
    if not 0 <= args.threshold < 1:
        parser.error('--threshold must be at least 0 and below 1')
    return args


def main() -> None:
    args = parse_args()
    with friendly_errors(args.debug):
        settings = DebiasSettings(args.clusters, args.keep, args.threshold, not args.no_center,
                                  args.ignore)
        write_debiased_masks(build_dataset(config_from(args)), args.masks, args.features,
                             args.out_dir, settings, args.overwrite)


if __name__ == '__main__':
    main()
