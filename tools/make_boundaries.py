"""Write the boundaries that a trained boundary network finds (RETAB): one grey PNG per image."""
from __future__ import annotations

import argparse
import os

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmseg_dhr.apis import write_boundaries
from mmseg_dhr.apis.build import build_dataset, build_model
from mmseg_dhr.utils.cli import add_common_arguments, config_from, friendly_errors
from mmseg_dhr.utils.process import keep_freed_memory


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of a BoundaryNetwork')
    parser.add_argument('checkpoint', help='checkpoint of the network')
    parser.add_argument('out_dir', help='folder for {image id}.png')
    add_common_arguments(parser, batch_size=1)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    keep_freed_memory()
    with friendly_errors(args.debug):
        config = config_from(args)
        model = build_model(config, args.checkpoint, method='boundary')
        write_boundaries(model, build_dataset(config), args.out_dir, args.overwrite,
                         args.batch_size)


if __name__ == '__main__':
    main()
