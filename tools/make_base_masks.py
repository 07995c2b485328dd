"""Write M_base, the initial masks: CAMs or seeds, a background, a CRF. A palette PNG per image."""
from __future__ import annotations

import argparse
import os

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmseg_dhr.apis import BaseMaskSettings, write_base_masks
from mmseg_dhr.apis.build import build_dataset, build_model
from mmseg_dhr.formats.seeds import FLAVOURS
from mmseg_dhr.utils.cli import add_common_arguments, config_from, friendly_errors
from mmseg_dhr.utils.process import keep_freed_memory


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('source', help='checkpoint whose CAMs are made on the fly; or folder of '
                        'tools/make_cams.py, or of the seeds or masks of another method')
    parser.add_argument('out_dir', help='folder for {image id}.png')
    parser.add_argument('--flavour', choices=['auto', *FLAVOURS], default='auto',
                        help='whose seeds the folder holds (default: what the files look like)')
    parser.add_argument('--scales', type=float, nargs='+', default=[1.0],
                        help='factors on the image size, with a checkpoint (default: %(default)s)')
    parser.add_argument('--no-flip', action='store_true', help='do not add mirrored views')
    background = parser.add_mutually_exclusive_group()
    background.add_argument('--background', type=float, help='constant background score '
                            '(default: 0.3, or the rule of the method that made the seeds)')
    background.add_argument('--background-power', type=float,
                            help='exponent of (1 - max CAM), instead of the constant')
    parser.add_argument('--no-crf', action='store_true', help='argmax of the CAMs as they are')
    add_common_arguments(parser, batch_size=1, threads=True)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    keep_freed_memory()
    with friendly_errors(args.debug):
        config = config_from(args)
        dataset = build_dataset(config)
        settings = BaseMaskSettings(args.background, args.background_power,
                                    None if args.no_crf else {}, dataset.background_index)
        is_folder = os.path.isdir(args.source)
        write_base_masks(dataset, args.out_dir, settings,
                         None if is_folder else build_model(config, args.source),
                         args.source if is_folder else None, args.flavour, args.scales,
                         not args.no_flip, args.threads, args.overwrite, args.batch_size)


if __name__ == '__main__':
    main()
