"""Write the features of the USS encoder: one safetensors file per image."""
from __future__ import annotations

import argparse
import os

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmseg_dhr.apis import write_uss_features
from mmseg_dhr.apis.build import build_dataset, build_model
from mmseg_dhr.utils import UserError
from mmseg_dhr.utils.cli import add_common_arguments, config_from, friendly_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file; its model.uss_encoder is used')
    parser.add_argument('out_dir', help='folder for {image id}.safetensors')
    parser.add_argument('--scales', type=float, nargs='+', default=[1.0],
                        help='factors on the image size (default: %(default)s)')
    parser.add_argument('--flip', action='store_true', help='add mirrored views')
    add_common_arguments(parser, batch_size=1)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with friendly_errors(args.debug):
        config = config_from(args)
        model = build_model(config, None)
        if model.uss_encoder is None:
            raise UserError('The config has no `model.uss_encoder`.')
        write_uss_features(model.uss_encoder, build_dataset(config), args.out_dir, args.scales,
                           args.flip, args.overwrite, args.batch_size)


if __name__ == '__main__':
    main()
