"""How much longer does training take with DHR? (Table 7)

Times iterations on given masks and with DHR online in turn, on the real batches of the config's
training. The median of the ratios is robust against other work on the machine. Testing is the same
with and without DHR: it runs the segmentor alone.
"""
from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import set_random_seed
from tqdm import tqdm

from mmseg_dhr.apis.analysis import settings_of, settings_text, write_result
from mmseg_dhr.apis.build import build_model
from mmseg_dhr.apis.training_time import PARTS, Times, time_training
from mmseg_dhr.utils import UserError
from mmseg_dhr.utils.cli import add_config_arguments, config_from, friendly_errors, positive_int
from mmseg_dhr.visualization import format_table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--checkpoint', help='weights to start from (default: random)')
    parser.add_argument('--iters', type=positive_int, default=10,
                        help='timed iterations of each kind (default: 10)')
    parser.add_argument('--cpu-time', action='store_true',
                        help='count the CPU seconds of this process instead of the wall clock: for '
                        'a CPU that does other work at the same time')
    parser.add_argument('--out', help='folder (default: WORK_DIR/training_time)')
    add_config_arguments(parser)
    return parser.parse_args()


def summary(times: Times) -> tuple[str, dict[str, float]]:
    """Table of the parts, and the ratio of DHR to plain training: median and quartiles."""
    ratios = sorted(b / a for a, b in zip(times.given, times.online, strict=True))
    low, middle, high = (statistics.quantiles(ratios, n=4, method='inclusive')
                         if len(ratios) > 1 else ratios * 3)
    whole = sum(sum(parts.values()) for parts in times.parts)
    rows = [(part, f'{statistics.median(parts[part] for parts in times.parts):.3f}',
             f'{100 * sum(parts[part] for parts in times.parts) / whole:.0f}') for part in PARTS]
    table = format_table(('with DHR, one after the other', 'seconds (median)', 'share %'), rows)
    return table, dict(ratio=middle, low=low, high=high, plain=statistics.median(times.given),
                       online=statistics.median(times.online))


def run(args: argparse.Namespace, config: Config) -> Times:
    """Seconds of every iteration.

    Raises:
        UserError: If the config has no training.
    """
    if 'train_dataloader' not in config or 'optim_wrapper' not in config:
        raise UserError(f'{args.config}: no training (`train_dataloader`, `optim_wrapper`).')
    # The optimizer wrapper would log the settings of every single weight.
    MMLogger.get_current_instance().setLevel('WARNING')
    set_random_seed(config.get('randomness', {}).get('seed') or 0)
    model = build_model(config, args.checkpoint)
    return time_training(model, config, args.iters,
                         progress=lambda steps: tqdm(steps, desc='iterations', mininterval=1.0),
                         timer=time.process_time if args.cpu_time else time.perf_counter)


def main() -> None:
    args = parse_args()
    with friendly_errors(args.debug):
        config = config_from(args)
        times = run(args, config)
        table, ratio = summary(times)
        device = (torch.cuda.get_device_name() if torch.cuda.is_available()
                  else f'CPU ({platform.machine()})')
        settings = settings_of(
            config, checkpoint=args.checkpoint, iters=args.iters, device=device,
            threads=torch.get_num_threads(), batch_size=config.train_dataloader.batch_size,
            torch=torch.__version__, clock='CPU time' if args.cpu_time else 'wall clock')
        text = (f'{settings_text(settings)}\n{table}\n'
                f'an iteration (median): {ratio["plain"]:.3f} s plain, '
                f'{ratio["online"]:.3f} s with DHR\n'
                f'with DHR / plain: {ratio["ratio"]:.2f} (quartiles {ratio["low"]:.2f} to '
                f'{ratio["high"]:.2f} over {args.iters} pairs of iterations)')
        if length := config.get('train_cfg', {}).get('max_iters'):
            hours = [ratio[name] * length / 3600 for name in ('plain', 'online')]
            text += (f'\n{length} iterations, all of one kind: {hours[0]:.2f} h plain, '
                     f'{hours[1]:.2f} h with DHR')
        path = write_result(args.out or Path(config.work_dir) / 'training_time', 'training_time',
                            text, settings, dict(summary=ratio, iterations=times._asdict()))
        print(f'\n{text}\n\nFigures: {path}')


if __name__ == '__main__':
    main()
