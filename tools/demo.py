"""The main job on the embedded scenes: train, test, and show what each step of DHR did.

`--full` also trains the same network on M_base and on true masks, and says which share of the gap
between the two DHR closes. `--retab` runs RETAB instead: five classes have masks, three have tags.
"""
from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/dhr/scenes_r18.py'
# Points of mIoU. One seed and a training of a few minutes move by about this much.
SMALLEST_GAP = 3.0


def run(*command: str) -> str:
    """Run one of the tools; show its output and return it.

    Raises:
        SystemExit: With the tool's exit code, if it fails.
    """
    print(f'\n$ python {" ".join(command)}', flush=True)
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE,
                               text=True)
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if 'report' in command[0] or _worth_showing(line):
            print(line, end='', flush=True)
    if process.wait():
        raise SystemExit(process.returncode)
    return ''.join(lines)


def _worth_showing(line: str) -> bool:
    """The log's header (environment and config) is long and in the log file anyway."""
    return 'Iter(' in line or line.startswith(('|', '+'))


def train_and_test(config: str) -> float:
    """Train a config and test its last checkpoint with multi-scale, flip and CRF; mIoU."""
    run('tools/train.py', config)
    return last_figure(run('tools/test.py', config, last_checkpoint(config), '--crf'), 'mIoU')


def last_checkpoint(config: str) -> str:
    """What the training of a config wrote last."""
    return (ROOT / 'work_dirs' / Path(config).stem / 'last_checkpoint').read_text().strip()


def last_figure(output: str, name: str) -> float:
    """The figure of that name that a test printed last.

    Raises:
        SystemExit: If there is none.
    """
    found = re.findall(rf'\b{name}: +([\d.]+)', output)
    if not found:
        raise SystemExit(f'error: tools/test.py printed no {name}')
    return float(found[-1])


def retab() -> dict[str, float]:
    """All steps of RETAB (docs/en/retab.md); test mIoU over all, base and novel classes."""
    cam, boundary, affinity, segmentor = (
        f'configs/retab/scenes_{step}.py' for step in ('cam', 'boundary', 'affinity', 'segmentor'))
    cams, learnt, masks = (f'work_dirs/scenes_{folder}' for folder in
                           ('cam/cams', 'affinity', 'segmentor/masks'))
    run('tools/train.py', cam)
    run('tools/make_cams.py', cam, last_checkpoint(cam), cams, '--scales', '1', '1.5')
    run('tools/train.py', boundary)
    run('tools/make_boundaries.py', boundary, last_checkpoint(boundary), f'{learnt}/boundaries')
    run('tools/make_affinity_labels.py', affinity, f'{learnt}/labels', '--cams', cams)
    run('tools/train.py', affinity)
    run('tools/make_affinity_masks.py', affinity, last_checkpoint(affinity), masks, '--cams', cams,
        '--boundaries', f'{learnt}/boundaries')
    run('tools/train.py', segmentor)
    output = run('tools/test.py', segmentor, last_checkpoint(segmentor), '--show-dir', 'painted')
    return {part: last_figure(output, name) for part, name in
            (('all', 'mIoU'), ('base', 'base_mIoU'), ('novel', 'novel_mIoU'))}


def describe_gap(weak: float, dhr: float, full: float) -> str:
    """The share of the weak-to-full gap that DHR closes, unless the gap itself is noise."""
    if full - weak < SMALLEST_GAP:
        return (f'The gap between the two ends is {full - weak:.1f} points: too small for a share '
                'of it to mean anything.')
    return f'DHR closes {100 * (dhr - weak) / (full - weak):.0f} % of the gap.'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument('--full', action='store_true', help='train the weak and full ends as well')
    choice.add_argument('--retab', action='store_true', help='run RETAB instead of DHR')
    args = parser.parse_args()
    start = time.time()
    if args.retab:
        means = retab()
        print('\nTest mIoU on the val scenes: ' +
              ', '.join(f'{part} classes {mean:.2f}' for part, mean in means.items()))
        print(f'Took {(time.time() - start) / 60:.1f} minutes. Masks: '
              'work_dirs/scenes_segmentor/masks, predictions: painted')
        return
    dhr = train_and_test(CONFIG)
    run('tools/analysis_tools/dhr_report.py', CONFIG)
    print(f'\nTest mIoU on the val scenes, multi-scale + flip + CRF: {dhr:.2f}')
    if args.full:
        weak = train_and_test(CONFIG.replace('.py', '_base.py'))
        full = train_and_test(CONFIG.replace('.py', '_full.py'))
        print(f'\nTest mIoU: trained on M_base {weak:.2f}, with DHR {dhr:.2f}, on true masks '
              f'{full:.2f}. {describe_gap(weak, dhr, full)}')
    print(f'Took {(time.time() - start) / 60:.1f} minutes. Open '
          f'work_dirs/scenes_r18/report/index.html')


if __name__ == '__main__':
    main()
