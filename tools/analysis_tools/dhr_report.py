"""Score pseudo-labels after each step of DHR and after recursion; write a page of pictures.

Needs true masks (`score_masks` of the config), which training never reads.
"""
from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmengine.config import Config

from mmseg_dhr.apis.analysis import truth_folder
from mmseg_dhr.apis.build import build_dataset, build_model, propagation_of
from mmseg_dhr.apis.report import STAGE_NAMES, example_pictures, pick_examples, stage_report
from mmseg_dhr.engine.hooks.recursive_learning_hook import WARMUP_CHECKPOINT
from mmseg_dhr.evaluation import MaskScores
from mmseg_dhr.formats import atomic_path
from mmseg_dhr.utils import UserError
from mmseg_dhr.utils.checks import read_checkpoint
from mmseg_dhr.utils.cli import add_config_arguments, config_from, friendly_errors, positive_int
from mmseg_dhr.visualization import format_table, write_report

HEADER = ('masks', 'mIoU', 'vanished %', 'rec<10 %', 'small rec<10 %', 'mIoU multi',
          'vanished multi %')
RECURSION = 'after recursion: M_dh'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--checkpoint', help='default: the last one of the work directory')
    parser.add_argument('--stride', type=positive_int,
                        help='grid of the boundary correction in pixels (default: as in training)')
    parser.add_argument('--examples', type=positive_int, default=12,
                        help='images on the page (default: 12)')
    parser.add_argument('--batch-size', type=positive_int, default=8, help='(default: 8)')
    parser.add_argument('--out', help='folder (default: WORK_DIR/report)')
    add_config_arguments(parser)
    return parser.parse_args()


def last_checkpoint(work_dir: str) -> Path:
    """The checkpoint that training wrote last.

    Raises:
        UserError: If there is none.
    """
    note = Path(work_dir) / 'last_checkpoint'
    if not note.is_file():
        raise UserError(f'{note}: not found, nothing was trained there. Run `python '
                        'tools/train.py` first, or give --work-dir or --checkpoint.')
    return Path(note.read_text().strip())


def row(name: str, scores: MaskScores) -> tuple[str, ...]:
    """One line of the table."""
    every, multi = scores.compute()
    figures = (every.miou, every.vanished, every.lost, every.small_lost, multi.miou,
               multi.vanished)
    return (name, *(f'{value:.1f}' for value in figures))


def collect(config: Config, checkpoint: Path, stride: int | None, examples: int,
            batch_size: int) -> tuple[dict[str, MaskScores], list[tuple[str, dict]]]:
    """Scores by row name, and the pictures of some images."""
    propagation_of(config.model)
    dataset = build_dataset(config, expects_base=True)
    truth_dir = truth_folder(config, dataset)
    chosen = pick_examples(dataset, examples)
    keep = [photo.img_id for photo in chosen]
    rows: dict[str, MaskScores] = {}
    masks: dict[str, dict[str, Any]] = {img_id: {} for img_id in keep}
    warmup = Path(config.work_dir) / WARMUP_CHECKPOINT
    for path, title in ((warmup, 'end of warm-up'), (checkpoint, 'after recursion')):
        if path == warmup and not path.is_file():
            continue  # a training on given masks has none
        model = build_model(config, path)
        with model.propagation.at_stride(stride or model.propagation.stride):
            report = stage_report(model, dataset, truth_dir, keep, batch_size, title)
        last = path == checkpoint
        names = {'final': RECURSION} if last else STAGE_NAMES
        rows.update({names[k]: v for k, v in report.scores.items() if k in names})
        for img_id, found in report.masks.items():
            masks[img_id].update({names[k]: v for k, v in found.items() if k in names})
    palette = dataset.metainfo['palette']
    pictures = [(photo.img_id,
                 example_pictures(model, photo, truth_dir, palette, masks[photo.img_id]))
                for photo in chosen]
    return rows, pictures


def main() -> None:
    args = parse_args()
    with friendly_errors(args.debug):
        config = config_from(args)
        checkpoint = Path(args.checkpoint or last_checkpoint(config.work_dir))
        if not checkpoint.is_file():
            raise UserError(f'{checkpoint}: no such checkpoint. Give another with --checkpoint.')
        rows, pictures = collect(config, checkpoint, args.stride, args.examples, args.batch_size)
        table = [row(name, scores) for name, scores in rows.items()]
        count = next(iter(rows.values())).compute()
        seed = read_checkpoint(checkpoint)[1].get('seed', 'unknown')
        caption = (f'Pseudo-labels of {count.all.images} training images '
                   f'({count.multi.images} with two or more classes), seed {seed}, R_C on a grid '
                   f'of {args.stride or config.model.propagation.get("stride", 4)} px')
        out = Path(args.out or Path(config.work_dir) / 'report')
        summary = {name: dict(all=s.compute().all.as_dict(), multi=s.compute().multi.as_dict())
                   for name, s in rows.items()}
        with atomic_path(out / 'report.json') as temporary:
            temporary.write_text(json.dumps(summary, indent=1) + '\n')
        write_report(out / 'index.html', f'DHR: {Path(args.config).stem}', pictures,
                     tables=[(caption, HEADER, table)])
        print(f'\n{caption}\n{format_table(HEADER, table)}\n\nPictures: {out / "index.html"}')


if __name__ == '__main__':
    main()
