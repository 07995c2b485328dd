"""Which classes do the USS features confuse? (Eq. 4, Fig. 11)

Correlates the USS centroids of the classes that stand in one image, averages over the images, and
does the same for centroids of the whole data set. Centred: after the mean feature (of the image,
of the data set) was subtracted. Writes matrices as pictures and prints the closest pairs.
"""
from __future__ import annotations

import argparse
import os
from pathlib import Path

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmseg_dhr.apis.analysis import settings_of, settings_text, truth_folder, write_result
from mmseg_dhr.apis.build import build_dataset, build_model
from mmseg_dhr.apis.correlation import Correlations, class_correlations, closest_pairs
from mmseg_dhr.utils.cli import add_config_arguments, config_from, friendly_errors, positive_int
from mmseg_dhr.visualization import format_table, plot_matrix

TITLES = dict(
    raw='USS correlation, mean over images',
    centred='USS correlation, centred per image, mean over images',
    linked='share of images above tau',
    dataset_raw='USS correlation, centroids of the data set',
    dataset_centred='USS correlation, centroids of the data set, centred')
HEADER = ('classes', 'images', 'raw', 'centred', 'above tau %', 'data set, raw', 'centred')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='gives the CAMs of M_init')
    parser.add_argument('--truth', action='store_true',
                        help='pool over true masks instead of M_init')
    parser.add_argument('--pairs', type=positive_int, default=20,
                        help='printed pairs (default: 20)')
    parser.add_argument('--every', type=positive_int, default=1,
                        help='take every N-th image (default: 1)')
    parser.add_argument('--batch-size', type=positive_int, default=8, help='(default: 8)')
    parser.add_argument('--out', help='folder (default: WORK_DIR/class_correlation)')
    add_config_arguments(parser)
    return parser.parse_args()


def pair_table(found: Correlations, classes: list[str], background: int | None,
               count: int) -> str:
    """The closest pairs of foreground classes."""
    foreground = [i for i in range(len(classes)) if i != background]
    rows = [(f'{classes[p.first]} - {classes[p.second]}', p.images, f'{p.raw:.2f}',
             f'{p.centred:.2f}', f'{100 * p.linked:.0f}', f'{p.dataset_raw:.2f}',
             f'{p.dataset_centred:.2f}') for p in closest_pairs(found, foreground, count)]
    return format_table(HEADER, rows)


def main() -> None:
    args = parse_args()
    with friendly_errors(args.debug):
        config = config_from(args)
        dataset = build_dataset(config, expects_base=True)
        truth = truth_folder(config, dataset) if args.truth else None
        found = class_correlations(build_model(config, args.checkpoint), dataset, args.every,
                                   args.batch_size, truth)
        classes = list(dataset.metainfo['classes'])
        out = Path(args.out or Path(config.work_dir) / 'class_correlation')
        for name, title in TITLES.items():
            plot_matrix(out / f'{name}.png', getattr(found, name).tolist(), classes, title)
        settings = settings_of(config, checkpoint=args.checkpoint, every=args.every,
                               masks='true masks' if args.truth else 'M_init')
        text = (f'{settings_text(settings)}\nPairs of classes in one image, closest first\n'
                f'{pair_table(found, classes, dataset.background_index, args.pairs)}')
        figures = dict(classes=classes, **{
            name: matrix.tolist() for name, matrix in found._asdict().items()})
        path = write_result(out, 'class_correlation', text, settings, figures)
        print(f'\n{text}\n\nMatrices: {out}/*.png, figures: {path}')


if __name__ == '__main__':
    main()
