"""How fast are the operators, training and the commands, next to their references?

Every line times ours and its reference in the same run, in turn, so that the ratio stands whatever
else the machine does. The ratio is time of the reference / ours, its median and quartiles.
"""
from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# NumPy starts its threads when it is first imported; what it computes here is to use one.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

import torch  # noqa: E402
from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from tqdm import tqdm  # noqa: E402

from mmseg_dhr.apis import benchmark  # noqa: E402
from mmseg_dhr.apis.analysis import settings_text, write_result  # noqa: E402
from mmseg_dhr.apis.benchmark import Row, Setup  # noqa: E402
from mmseg_dhr.apis.build import build_dataset, build_model  # noqa: E402
from mmseg_dhr.utils.cli import friendly_errors, positive_int  # noqa: E402
from mmseg_dhr.utils.config import load_config  # noqa: E402
from mmseg_dhr.utils.process import keep_freed_memory  # noqa: E402
from mmseg_dhr.visualization import format_table  # noqa: E402

SCENES = Path(__file__).resolve().parents[2] / 'configs/dhr/scenes_r18.py'
OPERATORS: dict[str, Callable[[Setup], Iterator[Row]]] = dict(
    crf=benchmark.crf_rows, ot=benchmark.ot_rows, walk=benchmark.walk_rows)
PACKAGES = ('mmseg_dhr', 'torch', 'numpy', 'numba', 'pydensecrf2', 'POT')


def parse_args() -> argparse.Namespace:
    defaults = Setup(())
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--suite', nargs='+', choices=[*OPERATORS, 'train', 'tools'],
                        default=[*OPERATORS, 'train', 'tools'], help='(default: all)')
    parser.add_argument('--data', metavar='ROOT',
                        help="photos: a folder, or one of VOC's layout with true masks; with "
                        '--config also its data root (default: the embedded scenes)')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--json', metavar='FILE', help='write all rows, and FILE.txt beside')
    parser.add_argument('--images', type=positive_int, default=8,
                        help='photos (default: %(default)s)')
    parser.add_argument('--size', type=positive_int,
                        help='shrink photos to this longer side; side of the scenes (320)')
    parser.add_argument('--repeats', type=positive_int, default=defaults.repeats,
                        help='timed runs on each photo (default: %(default)s)')
    for name, kind in (('classes', positive_int), ('scales', float), ('batches', positive_int)):
        parser.add_argument(f'--{name}', type=kind, nargs='+', default=getattr(defaults, name),
                            help='rows of the operators (default: %(default)s)')
    parser.add_argument('--threads', type=positive_int, default=defaults.threads,
                        help='compared with one (default: %(default)s)')
    parser.add_argument('--iters', type=positive_int, default=10,
                        help='timed iterations of training (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=defaults.seed)
    parser.add_argument('--cpu-time', action='store_true',
                        help='count the CPU seconds of this process instead of the wall clock, for '
                        'a CPU that does other work at the same time')
    parser.add_argument('--config', help='for train and tools (default: the embedded scenes)')
    parser.add_argument('--checkpoint', help='weights for --config (default: the initial ones)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction,
                        help='override settings of --config, key=value')
    parser.add_argument('--debug', action='store_true', help='show the traceback of every error')
    return _checked(parser)


def _checked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    args = parser.parse_args()
    if min(args.scales) <= 0 or min(args.classes) < 2:
        parser.error('--scales must be above 0, and --classes at least 2')
    if args.config is None and (args.checkpoint or args.cfg_options):
        parser.error('--checkpoint and --cfg-options need --config')
    if args.device == 'cuda' and args.cpu_time:
        parser.error('--cpu-time counts nothing of what a GPU does')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: this PyTorch finds no GPU')
    return args


def setup_of(args: argparse.Namespace) -> Setup:
    """What the suites of operators work on."""
    photos = (benchmark.load_photos(args.data, args.images, args.size) if args.data else
              benchmark.draw_photos(args.images, args.size or 320, args.seed))
    return Setup(photos, args.classes, args.scales, args.batches, args.threads, args.repeats,
                 args.seed, torch.device(args.device), args.cpu_time)


def rows_of(suite: str, args: argparse.Namespace) -> Iterator[Row]:
    """Time one suite, line by line."""
    if suite in OPERATORS:
        yield from OPERATORS[suite](setup_of(args))
        return
    timer = time.process_time if args.cpu_time else time.perf_counter
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(args, folder)
        if suite == 'tools':
            yield from benchmark.tool_rows(config, args.checkpoint, args.repeats, timer, device)
        else:
            model = build_model(config, args.checkpoint, device)
            benchmark.write_inputs(config, model, build_dataset(config))
            yield from benchmark.train_rows(config, args.checkpoint, args.iters, timer, device)


def config_of(args: argparse.Namespace, folder: str) -> Config:
    """The config of training and the commands, with few images, that writes into a folder."""
    if args.config is None:
        return benchmark.scenes_config(SCENES, folder, args.images)
    config = load_config(args.config, folder, args.data, args.cfg_options)
    benchmark.limit_images(config, args.images)
    return config


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    device = torch.cuda.get_device_name() if args.device == 'cuda' else 'cpu'
    chosen = {name: getattr(args, name) for name in ('config', 'images', 'size', 'repeats',
                                                     'iters', 'seed')}
    return dict(platform=platform.platform(), cpu=cpu_name(), cores=os.cpu_count(), device=device,
                threads=torch.get_num_threads(), python=platform.python_version(),
                **{name: _version(name) for name in PACKAGES},
                clock='CPU time' if args.cpu_time else 'wall clock',
                data=args.data or 'embedded scenes', **chosen)


def cpu_name() -> str:
    """What the processor calls itself."""
    path = Path('/proc/cpuinfo')
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def table(rows: list[Row]) -> str:
    """Lines of one suite; a figure that a line lacks is a dash."""
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    cells = []
    for row in rows:
        ratio = ('-', '-') if row.ratio is None else (
            f'{row.ratio.median:.2f}', f'{row.ratio.low:.2f} to {row.ratio.high:.2f}')
        cells.append((row.what, *map(_cell, row[2:6]), _cell(row.ours_ms), _cell(row.reference_ms),
                      *ratio, *(_cell(row.figures.get(name)) for name in names)))
    return format_table((rows[0].suite, 'classes', 'pixels', 'batch', 'runs', 'ours ms',
                         'reference ms', 'ratio', 'quartiles', *names), cells)


def _cell(value: float | None) -> str:
    if value is None or value != value:
        return '-'
    return str(value) if isinstance(value, int) or value == 0 else f'{value:.4g}'


def main() -> None:
    args = parse_args()
    keep_freed_memory()  # as the other commands do
    with friendly_errors(args.debug):
        # The optimizer wrapper would log the settings of every single weight.
        MMLogger.get_current_instance().setLevel('WARNING')
        settings = settings_of(args)
        parts, rows = [settings_text(settings)], []
        print(parts[0])
        for suite in args.suite:
            found = list(tqdm(rows_of(suite, args), desc=suite, unit=' rows'))
            rows += found
            if found:
                parts.append(table(found))
                print(f'\n{parts[-1]}')
        if args.json:
            figures = [dict(row._asdict(), ratio=row.ratio and row.ratio._asdict())
                       for row in rows]
            file = Path(args.json)
            path = write_result(file.parent, file.stem, '\n\n'.join(parts), settings, figures)
            print(f'\nFigures: {path}')


if __name__ == '__main__':
    main()
