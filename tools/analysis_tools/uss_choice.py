"""Which USS features make the better pseudo-labels? (Table 3)

Scores DHR and the two controls without transport once for each folder of cached USS features
(`python tools/extract_uss_features.py`), with the same CAMs and M_base; also M_base without its
biased objects (`python tools/debias_masks.py`), if every image has an M_base. Needs true masks
(`score_masks` of the config), which training never reads.
"""
from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmengine.config import Config, ConfigDict

from mmseg_dhr.apis.ablation import BASE, CONTROLS, ablate, figures_of
from mmseg_dhr.apis.analysis import (
    change_transforms,
    settings_of,
    settings_text,
    truth_folder,
    write_result,
)
from mmseg_dhr.apis.build import build_dataset, build_model, propagation_of
from mmseg_dhr.apis.common import list_photos
from mmseg_dhr.apis.debiasing import DebiasSettings, learn_debiaser, score_debiased
from mmseg_dhr.evaluation import Scores
from mmseg_dhr.utils import UserError
from mmseg_dhr.utils.cli import add_config_arguments, config_from, friendly_errors, positive_int
from mmseg_dhr.visualization import format_table

ROWS = {'DHR': dict(), **CONTROLS}
DEBIASED = 'M_base, debiased as in MARS'
HEADER = ('masks', 'USS', 'mIoU', 'with R_C', 'multi', 'with R_C', 'rec<10 %', 'small rec<10 %')
Pair = tuple[Scores, Scores]


def named_folder(text: str) -> tuple[str, str]:
    """'NAME=FOLDER' as two texts."""
    name, folder = text.split('=', 1)
    return name, folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='gives CAMs and WSS features, e.g. warmup.pth')
    parser.add_argument('features', nargs='+', type=named_folder, metavar='NAME=FOLDER',
                        help='folders of cached USS features')
    parser.add_argument('--every', type=positive_int, default=1,
                        help='take every N-th image (default: 1)')
    parser.add_argument('--batch-size', type=positive_int, default=8, help='(default: 8)')
    parser.add_argument('--out', help='folder (default: WORK_DIR/uss_choice)')
    add_config_arguments(parser)
    return parser.parse_args()


def with_features(config: Config, folder: str) -> Config:
    """A copy of the config whose whole images come with the USS features of a folder.

    Raises:
        UserError: If there is no such folder, or the config has no propagation or loads no cached
            features.
    """
    propagation_of(config.model)
    if not Path(folder).is_dir():
        raise UserError(f'{folder}: no such folder of USS features. Make it with '
                        '`python tools/extract_uss_features.py`.')
    if 'pseudo_label_dataset' not in config:
        raise UserError('The config has no `pseudo_label_dataset`.')
    dataset, count = change_transforms(config.pseudo_label_dataset.to_dict(), 'LoadUSSFeatures',
                                       lambda load: {**load, 'cache_dir': folder})
    if not count:
        raise UserError('The pipeline of `pseudo_label_dataset` has no `LoadUSSFeatures`, so that '
                        'it reads no cached USS features; see configs/_base_/datasets.')
    changed = config.copy()
    changed.pseudo_label_dataset = ConfigDict(dataset)
    changed.model = ConfigDict({**config.model.to_dict(), 'uss_encoder': None})
    if changed.model.propagation.get('center') == 'dataset':
        changed.model.propagation.uss_cache = folder
    return changed


def run(args: argparse.Namespace, config: Config) -> dict[str, dict[str, Pair]]:
    """By name of the features, scores by row."""
    changed = {name: with_features(config, folder) for name, folder in args.features}
    found = {}
    for name, version in changed.items():
        dataset = build_dataset(version, expects_base=True)
        truth = truth_folder(version, dataset)
        found[name] = ablate(
            build_model(version, args.checkpoint), dataset, ROWS, truth,
            version.model.propagation, args.every, args.batch_size, title=name)
        masks = base_folder(version, dataset)
        if masks is not None:
            debiaser = learn_debiaser(dataset, masks, dict(args.features)[name], DebiasSettings())
            scores = score_debiased(debiaser, truth, args.every)
            found[name][DEBIASED] = scores, scores  # no R_C follows
    return found


def base_folder(config: Config, dataset: Any) -> str | None:
    """Where M_base is; None unless every image has one, and the data set a background."""
    loads: list[dict] = []
    change_transforms(config.pseudo_label_dataset, 'LoadPseudoMask', loads.append)
    folder = loads[0].get('mask_dir') if loads else None
    complete = folder and dataset.background_index is not None and all(
        (Path(folder) / f'{photo.img_id}.png').is_file() for photo in list_photos(dataset))
    return folder if complete else None


def table_rows(found: dict[str, dict[str, Pair]]) -> list[tuple[str, ...]]:
    """M_base once, then row by row with all features side by side."""
    rows = []
    for row in (BASE, DEBIASED, *ROWS):
        for name, scores in found.items():
            if row in scores:
                before, after = scores[row]
                figures = (before.all.miou, after.all.miou, before.multi.miou, after.multi.miou,
                           after.all.lost, after.all.small_lost)
                rows.append((row, '-' if row == BASE else name, *(f'{v:.1f}' for v in figures)))
                if row == BASE:
                    break
    return rows


def main() -> None:
    args = parse_args()
    with friendly_errors(args.debug):
        config = config_from(args)
        found = run(args, config)
        count = next(iter(next(iter(found.values())).values()))[0]
        settings = settings_of(config, checkpoint=args.checkpoint, every=args.every,
                               features=dict(args.features))
        text = (f'Pseudo-labels of {count.all.images} training images ({count.multi.images} with '
                f'two or more classes); {settings_text(settings)}\n'
                f'{format_table(HEADER, table_rows(found))}')
        figures = {name: figures_of(scores) for name, scores in found.items()}
        path = write_result(args.out or Path(config.work_dir) / 'uss_choice', 'uss_choice', text,
                            settings, figures)
        print(f'\n{text}\n\nFigures: {path}')


if __name__ == '__main__':
    main()
