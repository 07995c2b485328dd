"""Draw the synthetic scenes of ``ScenesDataset`` into a folder of VOC layout."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmseg_dhr.datasets.scenes import SceneParameters, write_scenes
from mmseg_dhr.utils import friendly_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    defaults = SceneParameters()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('out', type=Path, help='folder to make; an equal one is left as it is')
    parser.add_argument('--num-train', type=int, default=defaults.num_train,
                        help='images of the train list')
    parser.add_argument('--num-val', type=int, default=defaults.num_val,
                        help='images of the val list')
    parser.add_argument('--size', type=int, default=defaults.size, help='side of an image, pixels')
    parser.add_argument('--seed', type=int, default=defaults.seed, help='seed of the drawing')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with friendly_errors(args.debug):
        write_scenes(args.out,
                     SceneParameters(args.num_train, args.num_val, args.size, args.seed))
    print(f'{args.out}: {args.num_train} train and {args.num_val} val scenes, '
          f'{args.size}x{args.size} pixels, seed {args.seed}')


if __name__ == '__main__':
    main()
