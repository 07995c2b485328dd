"""Test a trained segmentor: the table of mmseg, and the predictions as palette PNG if wanted."""
from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS

from mmseg_dhr.evaluation import MaskWriterHook, TestProgressHook, VOCSubmissionHook
from mmseg_dhr.utils import (
    UserError,
    check_checkpoint,
    check_datasets,
    friendly_errors,
    leaf_datasets,
    naming_broken_files,
)
from mmseg_dhr.utils.checks import read_checkpoint
from mmseg_dhr.utils.cli import (
    add_config_arguments,
    add_launcher_arguments,
    config_from,
    prepare_cpu_launch,
)
from mmseg_dhr.utils.throughput import Throughput


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Test (and evaluate) a segmentor')
    parser.add_argument('config', help='train config file path')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', metavar='DIR', help='write the predictions there as palette PNG')
    parser.add_argument('--format-voc', metavar='DIR',
                        help='write the predictions there as the evaluation server of VOC takes '
                        'them')
    parser.add_argument('--images', metavar='DIR',
                        help='predict the photos in this folder instead of the test data set; '
                        'they need no masks, and nothing is scored')
    parser.add_argument('--show', action='store_true', help='show prediction results')
    parser.add_argument('--show-dir', help='write painted images to this dir')
    parser.add_argument('--wait-time', type=float, default=2, help='the interval of show (s)')
    parser.add_argument('--tta', action='store_true',
                        help='test time augmentation, with the tta_model and tta_pipeline of the '
                        'config')
    parser.add_argument('--crf', action=argparse.BooleanOptionalAction, default=None,
                        help='refine the predictions with a dense CRF, or do not; the default is '
                        'what tta_model says. --crf implies --tta')
    add_config_arguments(parser)
    add_launcher_arguments(parser)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def enable_tta(cfg: Config, crf: bool | None) -> None:
    """Wrap the model for test-time augmentation.

    A ``CRFPostProcess``, which would refine every view, gives way to the same CRF after the mean.

    Args:
        cfg (Config): Changed in place.
        crf (bool, optional): Switch the CRF on (with the settings of ``tta_model.crf``, if there
            are any) or off. None leaves it to ``tta_model``, or to the ``CRFPostProcess``.

    Raises:
        UserError: If the config has no ``tta_pipeline``.
    """
    if 'tta_pipeline' not in cfg:
        raise UserError('`--tta` and `--crf` need a `tta_pipeline` in the config: a TestTimeAug of '
                        'scales and flips, as in the data set configs of mmseg.')
    tta_model = dict(cfg.get('tta_model') or dict(type='CRFTTAModel'))
    model, refinement = without_post_process(cfg.model)
    tta_model.update(refinement)
    if crf and tta_model['type'] != 'CRFTTAModel':
        tta_model['type'] = 'CRFTTAModel'
    if crf:
        tta_model['crf'] = tta_model.get('crf') or dict()
    elif crf is not None:
        tta_model.pop('crf', None)
    for _, dataset in leaf_datasets(cfg.test_dataloader.dataset, 'test_dataloader.dataset'):
        dataset['pipeline'] = cfg.tta_pipeline
    cfg.model = dict(**tta_model, module=model)


def without_post_process(model: ConfigDict) -> tuple[ConfigDict, dict[str, Any]]:
    """A model without the ``CRFPostProcess`` around it, and its settings for a ``CRFTTAModel``."""
    if model['type'] != 'CRFPostProcess':
        return model, {}
    segmentor = model['segmentor']
    if model.get('data_preprocessor') is not None:
        segmentor.setdefault('data_preprocessor', model['data_preprocessor'])
    settings = {key: model[key] for key in ('min_score', ) if key in model}
    return segmentor, dict(settings, type='CRFTTAModel', crf=model.get('crf') or dict())


def use_images(cfg: Config, folder: str) -> None:
    """Test on a folder of photos without masks.

    Args:
        cfg (Config): Changed in place.
        folder (str): Searched with its sub-folders.

    Raises:
        UserError: If the config has no ``test_dataloader``.
    """
    if not cfg.get('test_dataloader'):
        raise UserError('`--images` needs a `test_dataloader` in the config: its pipeline says '
                        'how a photo is read.')
    _, tested = next(leaf_datasets(cfg.test_dataloader.dataset, 'test_dataloader.dataset'))
    meta = DATASETS.build({**tested, 'pipeline': [], 'lazy_init': True}).metainfo
    cfg.test_dataloader.dataset = dict(
        type='ImageLabelDataset', data_root=folder,
        metainfo=dict(classes=meta['classes'], palette=meta['palette']),
        pipeline=without_masks(tested['pipeline']))
    if 'tta_pipeline' in cfg:
        cfg.tta_pipeline = without_masks(cfg.tta_pipeline)
    cfg.test_evaluator = []
    cfg.test_cfg = cfg.get('test_cfg') or dict(type='TestLoop')


def without_masks(pipeline: Sequence[Any]) -> list[Any]:
    """The transforms of a pipeline, also of a TestTimeAug in it, but those that load masks."""
    kept: list[Any] = []
    for step in pipeline:
        if not isinstance(step, Mapping):
            steps = without_masks(step)
            kept += [steps] if steps else []
        elif step['type'] == 'TestTimeAug':
            kept.append(dict(step, transforms=without_masks(step['transforms'])))
        elif step['type'] not in ('LoadAnnotations', 'LoadPseudoMask'):
            kept.append(dict(step))
    return kept


def compare_classes(trained: Sequence[str] | None, tested: Sequence[str] | None) -> None:
    """Warn if a label id means another class in the test than it did in the training."""
    if trained and tested and list(trained) != list(tested):
        print_log(f'The network was trained on the classes {", ".join(trained)}, but the test has '
                  f'{", ".join(tested)}: by its ids, one is taken for the other. A change of the '
                  'names of your own photos changes their order.', logger='current',
                  level=logging.WARNING)


class ThroughputHook(Hook):
    """Says at the end how fast the test was and how much memory it took."""

    priority = 'VERY_LOW'  # after the table

    def before_test_epoch(self, runner: Runner) -> None:
        """Start the clock."""
        self.clock = Throughput()

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log the line."""
        images = len(runner.test_dataloader.dataset)
        print_log(self.clock.line('Test', images), logger='current')


def drop_training_parts(cfg: Config) -> None:
    """Leave out what only a training needs, so that a test needs no file of theirs."""
    model = cfg.model.segmentor if cfg.model.type == 'CRFPostProcess' else cfg.model
    if model.type == 'DualEncoderSegmentor':
        model.uss_encoder = None
        model.propagation = None


def enable_visualization(cfg: Config, args: argparse.Namespace) -> None:
    """Paint the predictions on a screen or into a folder.

    Raises:
        UserError: If the config has no hook for it.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise UserError('`--show` and `--show-dir` need a visualization hook in the config: '
                        "default_hooks = dict(visualization=dict(type='SegVisualizationHook')).")
    # Every image: by itself the hook takes every 50th.
    hook.update(draw=True, interval=1, show=args.show, wait_time=args.wait_time)
    if args.show_dir:
        cfg.visualizer['save_dir'] = args.show_dir


def main() -> None:
    """Build the runner and test."""
    args = parse_args()
    with friendly_errors(args.debug):
        cfg = config_from(args)
        cfg.launcher = args.launcher
        cfg.load_from = args.checkpoint
        if args.images:
            for folder in filter(None, (args.out, args.show_dir, args.format_voc)):
                if Path(args.images).resolve() in (path := Path(folder).resolve(), *path.parents):
                    raise UserError(f'{folder}: a folder of its own, not in {args.images}, where '
                                    'what is written would be taken for photos.')
            init_default_scope(cfg.get('default_scope', 'mmseg'))
            use_images(cfg, args.images)
        check_datasets(cfg, ('test', ))
        if args.show or args.show_dir:
            enable_visualization(cfg, args)
        drop_training_parts(cfg)
        if args.tta or args.crf:
            enable_tta(cfg, args.crf)
        if sys.stderr.isatty() and 'logger' in cfg.get('default_hooks', {}):
            cfg.default_hooks.logger.interval = sys.maxsize  # the progress bar stands in for it
        prepare_cpu_launch(cfg)
        runner = Runner.from_cfg(cfg)
        check_checkpoint(runner.model, args.checkpoint)
        meta = read_checkpoint(args.checkpoint)[1]
        runner.register_hook(TestProgressHook())
        runner.register_hook(ThroughputHook())
        if args.out:
            runner.register_hook(MaskWriterHook(args.out))
        if args.format_voc:
            runner.register_hook(VOCSubmissionHook(args.format_voc))
        with naming_broken_files(cfg, ('test', )):
            compare_classes((meta.get('dataset_meta') or {}).get('classes'),
                            runner.test_loop.dataloader.dataset.metainfo.get('classes'))
            runner.test()


if __name__ == '__main__':
    main()
