"""Write the class activation maps of a trained model: one npz per image."""
from __future__ import annotations

import argparse

from mmseg_dhr.apis import write_cams
from mmseg_dhr.apis.build import build_dataset, build_model
from mmseg_dhr.utils.cli import add_common_arguments, config_from, friendly_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint of a DualEncoderSegmentor')
    parser.add_argument('out_dir', help='folder for {image id}.npz')
    parser.add_argument('--scales', type=float, nargs='+', default=[0.5, 1.0, 1.5, 2.0],
                        help='factors on the image size (default: %(default)s)')
    parser.add_argument('--no-flip', action='store_true', help='do not add mirrored views')
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with friendly_errors(args.debug):
        config = config_from(args)
        model = build_model(config, args.checkpoint)
        write_cams(model, build_dataset(config), args.out_dir, args.scales, not args.no_flip,
                   args.overwrite)


if __name__ == '__main__':
    main()
