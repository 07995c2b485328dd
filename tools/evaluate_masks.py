"""Score folders of masks (pseudo-labels, predictions) against the ground truth."""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.registry import DATASETS, init_default_scope

from mmseg_dhr.datasets import read_image_labels
from mmseg_dhr.datasets.converters import cores
from mmseg_dhr.evaluation import (
    MaskPair,
    Scores,
    compare_classes_table,
    list_pairs,
    match_masks,
    per_class_table,
    score_pairs,
    scores_table,
)
from mmseg_dhr.evaluation.folders import Matching
from mmseg_dhr.formats import atomic_path
from mmseg_dhr.utils import UserError, check_datasets
from mmseg_dhr.utils.cli import add_config_arguments, config_from, friendly_errors, positive_int

LABELS = ('json', 'csv', 'npy')


class Task(NamedTuple):
    """What to score."""
    pairs: list[MaskPair]
    matching: Matching
    classes: Sequence[str]
    background_index: int | None


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('pred_dir', nargs='+', help='folder of masks {image id}.png')
    source = parser.add_argument_group('ground truth (--config, or --gt-dir and --classes)')
    source.add_argument('--config', help='config whose data set names images, classes and tags')
    source.add_argument('--split', choices=['train', 'val', 'test'], default='train',
                        help='which data set of the config (default: train)')
    source.add_argument('--gt-dir', metavar='DIR', help='folder of true masks {image id}.png')
    source.add_argument('--classes', nargs='+', metavar='NAME',
                        help='class names in the order of the labels, for --gt-dir')
    source.add_argument('--labels', metavar='FILE',
                        help='image-level labels (.json, .csv, .npy), for --gt-dir; the default is '
                        'what the true masks show')
    parser.add_argument('--per-class', action='store_true',
                        help='print the IoU of each class; several folders stand side by side')
    parser.add_argument('--json', metavar='FILE', help='write all figures there')
    parser.add_argument('--jobs', type=positive_int, default=cores(),
                        help='processes (default: all cores)')
    add_config_arguments(parser)
    args = parser.parse_args()
    if not args.config and not (args.gt_dir and args.classes):
        parser.error('give --config, or --gt-dir and --classes')
    return args


def background_of(classes: Sequence[str]) -> int | None:
    """Label of the class that is named background, None if there is none."""
    names = [name.strip(' _').lower() for name in classes]
    return names.index('background') if 'background' in names else None


def tasks_of_config(args: argparse.Namespace) -> Callable[[str], Task]:
    """What a config says of any folder of masks: images, classes, tags and true masks.

    Raises:
        UserError: If the config has no such data set or names no masks.
    """
    cfg = config_from(args)
    loader = cfg.get(f'{args.split}_dataloader')
    if not loader:
        raise UserError(f'{args.config}: no `{args.split}_dataloader`.')
    check_datasets(cfg, (args.split, ))
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    dataset = DATASETS.build(without_pipeline(loader['dataset']))
    gt_dir = args.gt_dir
    if gt_dir is None and args.split == 'train' and 'score_masks' in cfg:
        root = getattr(getattr(dataset, 'dataset', dataset), 'data_root', None)
        gt_dir = os.path.join(root or '', cfg.score_masks)
    classes = dataset.metainfo['classes']
    background = getattr(dataset, 'background_index', background_of(classes))
    return lambda pred_dir: Task(*list_pairs(dataset, pred_dir, gt_dir), classes, background)


def without_pipeline(dataset: dict[str, Any]) -> dict[str, Any]:
    """The config of a data set that reads no image; what the pipeline needs may be absent."""
    plain = dict(dataset)
    if isinstance(plain.get('dataset'), dict):
        plain['dataset'] = without_pipeline(plain['dataset'])
    else:
        plain['pipeline'] = []
    return plain


def task_of_folders(args: argparse.Namespace, pred_dir: str) -> Task:
    """Images, masks and tags from folders and files.

    Raises:
        UserError: If the file of image-level labels is of another kind, or a folder has no masks.
    """
    background = background_of(args.classes)
    matching = match_masks(pred_dir, match_masks(args.gt_dir).common)
    tags: dict[str, tuple[int, ...]] = {}
    if args.labels:
        kind = Path(args.labels).suffix[1:].lower()
        if kind not in LABELS:
            raise UserError(f'{args.labels}: expected image-level labels in a file '
                            f'.{", .".join(LABELS)}. Give another with `--labels`.')
        source = dict(type=kind, path=args.labels, allow_empty=True)
        tags = read_image_labels(source, args.classes, background, matching.common)
    pairs = [MaskPair(i, os.path.join(pred_dir, f'{i}.png'),
                      os.path.join(args.gt_dir, f'{i}.png'), tags.get(i)) for i in matching.common]
    return Task(pairs, matching, args.classes, background)


def print_matching(matching: Matching, pred_dir: str) -> None:
    """Say which images are scored and which are not."""
    print(f'{pred_dir}: {len(matching.common)} masks scored')
    for ids, what in ((matching.missing, 'images of the data set have no mask there'),
                      (matching.surplus, 'masks are of no image of the data set (not scored)')):
        if ids:
            more = ', ...' if len(ids) > 10 else ''
            print(f'warning: {len(ids)} {what}: {", ".join(ids[:10])}{more}', file=sys.stderr)


def score(task: Task, jobs: int) -> Scores:
    """Score what was found, behind a progress bar."""
    return score_pairs(task.pairs, len(task.classes), task.background_index, jobs,
                       sys.stderr.isatty()).compute()


def figures(task: Task, scores: Scores) -> dict[str, Any]:
    """Scores and missing masks of a folder, for JSON."""
    return {**{name: group.as_dict(task.classes) for name, group in scores._asdict().items()},
            'missing': task.matching.missing}


def print_scores(found: dict[str, tuple[Task, Scores]], per_class: bool) -> None:
    """Tables of one or several folders."""
    classes = next(iter(found.values()))[0].classes
    if per_class and len(found) > 1:
        columns = column_names(list(found))
        print(compare_classes_table(
            {columns[folder]: scores for folder, (_, scores) in found.items()}, classes) + '\n')
    for folder, (_, scores) in found.items():
        if len(found) > 1:
            print(f'\n{folder}')
        elif per_class:
            print(per_class_table(scores, classes) + '\n')
        print(scores_table(scores))


def column_names(folders: Sequence[str]) -> dict[str, str]:
    """Folder -> its own name, or its whole path where two have the same name."""
    names = [Path(folder).name for folder in folders]
    return {folder: name if names.count(name) == 1 else folder
            for folder, name in zip(folders, names, strict=True)}


def main() -> None:
    """Score and print."""
    args = parse_args()
    with friendly_errors(args.debug):
        found = {}
        task_of = tasks_of_config(args) if args.config else partial(task_of_folders, args)
        for folder in args.pred_dir:
            task = task_of(folder)
            print_matching(task.matching, folder)
            found[folder] = task, score(task, args.jobs)
        print_scores(found, args.per_class)
        if args.json:
            by_folder = {folder: figures(*pair) for folder, pair in found.items()}
            content = by_folder if len(found) > 1 else next(iter(by_folder.values()))
            with atomic_path(args.json) as temporary:
                temporary.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
