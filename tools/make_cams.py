"""Write the class activation maps of a trained model: one npz per image."""
from __future__ import annotations

import argparse
import os

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmseg_dhr.apis import write_cams
from mmseg_dhr.apis.build import build_dataset, build_model
from mmseg_dhr.ops import Climbing
from mmseg_dhr.utils.cli import add_common_arguments, config_from, friendly_errors
from mmseg_dhr.utils.process import keep_freed_memory


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint of a model that makes CAMs')
    parser.add_argument('out_dir', help='folder for {image id}.npz')
    parser.add_argument('--scales', type=float, nargs='+', default=[0.5, 1.0, 1.5, 2.0],
                        help='factors on the image size (default: %(default)s)')
    parser.add_argument('--no-flip', action='store_true', help='do not add mirrored views')
    climbing = parser.add_argument_group('AdvCAM: images that show their tags more clearly')
    default = Climbing()
    climbing.add_argument('--climb-iters', type=int, default=0, metavar='T',
                          help=f'steps, {default.iters} in the paper (default: none, plain CAMs)')
    climbing.add_argument('--climb-step', type=float, default=default.step, metavar='XI',
                          help='step size on the normalised image (default: %(default)s)')
    climbing.add_argument('--climb-others-weight', type=float, default=default.others_weight,
                          metavar='W', help="weight of the other classes' logits, which shall not "
                          'rise (default: %(default)s)')
    climbing.add_argument('--climb-keep-weight', type=float, default=default.keep_weight,
                          metavar='LAMBDA', help='weight that keeps regions as they are that '
                          'score high already (default: %(default)s)')
    climbing.add_argument('--climb-keep-threshold', type=float, default=default.keep_threshold,
                          metavar='TAU', help='score of these regions (default: %(default)s)')
    add_common_arguments(parser, batch_size=1)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    keep_freed_memory()
    with friendly_errors(args.debug):
        config = config_from(args)
        model = build_model(config, args.checkpoint, method='cam_maps')
        climbing = Climbing(
            args.climb_iters, args.climb_step, args.climb_others_weight, args.climb_keep_weight,
            args.climb_keep_threshold) if args.climb_iters else None
        write_cams(model, build_dataset(config), args.out_dir, args.scales, not args.no_flip,
                   args.overwrite, args.batch_size, climbing)


if __name__ == '__main__':
    main()
