"""Which folder of masks trains the better segmentor?

Trains the same small head on the frozen features of a checkpoint with each folder of masks and
several seeds, and tests it on the validation images. Minutes instead of whole trainings; what it
says holds for a segmentor whose encoder is not trained further.
"""
from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import nn

from mmseg_dhr.apis import list_photos, read_rgb
from mmseg_dhr.apis.analysis import settings_of, settings_text, truth_folder, write_result
from mmseg_dhr.apis.build import build_dataset, build_model
from mmseg_dhr.apis.common import Photo, TrueMasks
from mmseg_dhr.apis.label_probe import (
    FrozenFeatures,
    ProbeSettings,
    collect_features,
    predict_labels,
    test_head,
    train_head,
    untagged_photos,
)
from mmseg_dhr.datasets import novel_labels
from mmseg_dhr.evaluation import base_novel_means
from mmseg_dhr.formats import (
    OutputFolder,
    open_output,
    origin_of,
    state_fingerprint,
    write_mask,
)
from mmseg_dhr.utils import UserError
from mmseg_dhr.utils.cli import add_config_arguments, config_from, friendly_errors, positive_int
from mmseg_dhr.visualization import format_table

HEADER = ('masks', 'test mIoU', 'spread', 'by seed')
NOVEL_HEADER = ('base mIoU', 'novel mIoU')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='its encoder gives the features')
    parser.add_argument('masks', nargs='+', help='folders of {image id}.png')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2],
                        help='(default: 0 1 2)')
    parser.add_argument('--iters', type=positive_int, default=ProbeSettings().iters,
                        help='(default: 400)')
    parser.add_argument('--novel', nargs='+', metavar='CLASS',
                        help='novel classes, or a fold such as pascal-5i/0: also give the means '
                        'over base and novel classes')
    parser.add_argument('--no-truth', action='store_true',
                        help='do not train on true masks for comparison')
    parser.add_argument('--predict', metavar='DIR',
                        help="write the head's own masks of the training images (tags and "
                        'background only) after the first folder and seed: the base of a weak '
                        'student, in which many classes have vanished')
    parser.add_argument('--out', help='folder of the table (default: WORK_DIR)')
    add_config_arguments(parser)
    return parser.parse_args()


def test_images(config: Config) -> tuple[Any, TrueMasks]:
    """The data set that the head is tested on, and its true masks.

    Raises:
        UserError: If the config has none, or it names no masks.
    """
    loader = config.get('test_dataloader')
    if not loader:
        raise UserError(f'{config.filename}: no `test_dataloader`, whose images the head is tested '
                        'on.')
    dataset = DATASETS.build(loader.dataset)
    folder = dataset.data_prefix.get('seg_map_path')
    if not folder:
        raise UserError(f'{config.filename}: the head is tested on true masks, but the config has '
                        'no `test_dataloader.dataset.data_prefix.seg_map_path`, their folder.')
    return dataset, TrueMasks(Path(folder), dataset.seg_map_suffix, dataset.reduce_zero_label)


def probe(args: argparse.Namespace, config: Config) -> dict[str, list[dict[str, Any]]]:
    """Test mIoU by folder, one per seed: ``all``, and ``base`` and ``novel`` if asked for; ``iou``
    by class.
    """
    settings = ProbeSettings(iters=args.iters)
    dataset = build_dataset(config)
    model = build_model(config, args.checkpoint)
    test_set, test_truth = test_images(config)
    train = collect_features(model, list_photos(dataset), settings, 'training features')
    test = collect_features(model, untagged_photos(test_set), settings, 'test features')
    folders: dict[str, Path | TrueMasks] = {folder: Path(folder) for folder in args.masks}
    if not args.no_truth:
        truth = truth_folder(config, dataset)
        folders[str(truth.folder)] = truth
    classes, background = model.cam_head.num_classes, model.cam_head.background_index
    novel = () if args.novel is None else novel_labels(
        args.novel[0] if len(args.novel) == 1 and '/' in args.novel[0] else args.novel,
        dataset.metainfo['classes'], background)
    predicted = open_predictions(args, train.photos, model) if args.predict else None
    found: dict[str, list[dict[str, Any]]] = {}
    for name, masks in folders.items():
        for seed in args.seeds:
            head = train_head(train, masks, classes, seed, settings, Path(name).name)
            if predicted is not None and not found:
                write_predictions(predicted, head, train, background, settings,
                                  dataset.metainfo['palette'])
            scores = test_head(head, test, test_truth, classes, background, settings)
            means = base_novel_means(scores.all.iou, novel)
            means = means if novel else dict(all=means['all'])
            iou = scores.all.as_dict(dataset.metainfo['classes'])['iou']
            found.setdefault(name, []).append(dict(means, iou=iou))
            print(f'{name}, seed {seed}: test mIoU {scores.all.miou:.1f}', flush=True)
    return found


def row(name: str, means: list[dict[str, Any]]) -> tuple[str, ...]:
    """A folder's row of the table."""
    values = [mean['all'] for mean in means]
    parts = (f'{statistics.mean(mean[part] for mean in means):.1f}'
             for part in ('base', 'novel') if part in means[0])
    return (Path(name).name, f'{statistics.mean(values):.1f}',
            f'{max(values) - min(values):.1f}', ' '.join(f'{v:.1f}' for v in values), *parts)


def open_predictions(args: argparse.Namespace, photos: list[Photo], model: Any) -> OutputFolder:
    """The folder of ``--predict``; what it holds is made again.

    Raises:
        ValueError: If it holds masks of other settings or of unknown origin.
    """
    settings = dict(kind='head', weights=state_fingerprint(model), masks=origin_of(args.masks[0]),
                    seed=args.seeds[0], iters=args.iters)
    return open_output(args.predict, settings, [photo.img_id for photo in photos], '.png')


def write_predictions(folder: OutputFolder, head: nn.Module, features: FrozenFeatures,
                      background: int | None, settings: ProbeSettings, palette: Any) -> None:
    """The head's masks of the images that it was trained on, as palette PNG."""
    for i, photo in enumerate(features.photos):
        allowed = [*photo.tags, *([] if background is None else [background])]
        size = read_rgb(photo.path).shape[:2]
        write_mask(folder.path(photo.img_id),
                   predict_labels(head, features, i, size, settings, allowed), palette)
    folder.finish()


def main() -> None:
    args = parse_args()
    with friendly_errors(args.debug):
        config = config_from(args)
        found = probe(args, config)
        header = HEADER if args.novel is None else (*HEADER, *NOVEL_HEADER)
        table = format_table(header, [row(name, values) for name, values in found.items()])
        settings = settings_of(config, checkpoint=args.checkpoint, iters=args.iters)
        text = f'Head on frozen features; {settings_text(settings)}\n{table}'
        path = write_result(args.out or config.work_dir, 'label_probe', text, settings, found)
        print(f'\n{text}\n\nFigures: {path}')


if __name__ == '__main__':
    main()
