"""Train a segmentor from a config."""
from __future__ import annotations

import argparse
import os

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmengine.config import Config
from mmengine.runner import Runner, find_latest_checkpoint
from mmseg.registry import RUNNERS

from mmseg_dhr.utils import UserError, check_datasets, friendly_errors, naming_broken_files
from mmseg_dhr.utils.cli import (
    add_config_arguments,
    add_launcher_arguments,
    config_from,
    prepare_cpu_launch,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train a segmentor')
    parser.add_argument('config', help='train config file path')
    parser.add_argument('--resume', action='store_true',
                        help='go on from the latest checkpoint in the work_dir, if there is one')
    parser.add_argument('--amp', action='store_true',
                        help='enable automatic-mixed-precision training')
    add_config_arguments(parser)
    add_launcher_arguments(parser)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def enable_amp(cfg: Config) -> None:
    """Let the optimizer wrapper train in mixed precision.

    Raises:
        UserError: If the config has an optimizer wrapper of its own.
    """
    wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if wrapper == 'AmpOptimWrapper':
        return
    if wrapper != 'OptimWrapper':
        raise UserError('`--amp` expects optim_wrapper.type to be OptimWrapper, '
                        f'but the config has {wrapper}.')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.loss_scale = 'dynamic'


def resume_training(cfg: Config) -> None:
    """Go on from the latest checkpoint of the work directory; without one, start.

    MMEngine by itself would rather go on where the training of ``load_from`` ended.
    """
    if find_latest_checkpoint(cfg.work_dir) is not None:
        cfg.resume = True
        cfg.load_from = None


def main() -> None:
    """Build the runner and train."""
    args = parse_args()
    with friendly_errors(args.debug):
        cfg = config_from(args)
        cfg.launcher = args.launcher
        if args.amp:
            enable_amp(cfg)
        if args.resume:
            resume_training(cfg)
        check_datasets(cfg, ('train', 'val'))
        prepare_cpu_launch(cfg)
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        with naming_broken_files(cfg, ('train', 'val')):
            runner.train()


if __name__ == '__main__':
    main()
