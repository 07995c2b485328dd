"""Write DHR's masks M_dh of a trained model: one palette PNG per image."""
from __future__ import annotations

import argparse
import os

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmseg_dhr.apis import write_pseudo_labels
from mmseg_dhr.apis.build import build_dataset, build_model, propagation_of
from mmseg_dhr.utils.cli import add_common_arguments, config_from, friendly_errors, positive_int


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint of a DualEncoderSegmentor')
    parser.add_argument('out_dir', help='folder for {image id}.png')
    parser.add_argument('--stride', type=positive_int, default=1,
                        help='grid of the boundary correction in pixels (default: %(default)s)')
    add_common_arguments(parser, batch_size=4)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with friendly_errors(args.debug):
        config = config_from(args)
        propagation_of(config.model)
        model = build_model(config, args.checkpoint)
        dataset = build_dataset(config, expects_base=True)
        write_pseudo_labels(model, dataset, args.out_dir, args.stride, args.batch_size,
                            args.overwrite)


if __name__ == '__main__':
    main()
