"""Write M_base, the initial masks: CAMs or seeds, a background, a CRF. A palette PNG per image."""
from __future__ import annotations

import argparse
import os
from typing import Any

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmseg_dhr.apis import BaseMaskSettings, write_base_masks
from mmseg_dhr.apis.build import build_dataset, build_model
from mmseg_dhr.apis.common import list_photos
from mmseg_dhr.apis.seed_folder import holds_masks
from mmseg_dhr.formats.seeds import FLAVOURS
from mmseg_dhr.utils import UserError
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
    parser.add_argument('--scales', type=float, nargs='+',
                        help='factors on the image size, with a checkpoint (default: 1.0)')
    parser.add_argument('--no-flip', action='store_true',
                        help='do not add mirrored views, with a checkpoint')
    background = parser.add_mutually_exclusive_group()
    background.add_argument('--background', type=float, help='constant background score '
                            '(default: 0.3, or the rule of the method that made the seeds)')
    background.add_argument('--background-power', type=float,
                            help='exponent of (1 - max CAM), instead of the constant')
    parser.add_argument('--no-crf', action='store_true', help='argmax of the CAMs as they are')
    add_common_arguments(parser, batch_size=1, threads=True)
    return parser.parse_args()


def check_options(args: argparse.Namespace, dataset: Any) -> None:
    """Refuse options that a folder leaves without effect.

    Raises:
        UserError: Names them.
    """
    given = {'--scales': args.scales is not None, '--no-flip': args.no_flip,
             '--batch-size': args.batch_size != 1}
    why = 'its maps were made before; these options are for a checkpoint'
    if holds_masks(args.source, list_photos(dataset), args.flavour):
        given |= {'--background': args.background is not None,
                  '--background-power': args.background_power is not None,
                  '--no-crf': args.no_crf}
        why = 'it holds masks, to which nothing is done'
    if idle := [option for option, is_given in given.items() if is_given]:
        raise UserError(f'{args.source}: {", ".join(idle)} would have no effect on this folder: '
                        f'{why}. Leave them out.')


def main() -> None:
    args = parse_args()
    keep_freed_memory()
    with friendly_errors(args.debug):
        config = config_from(args)
        dataset = build_dataset(config)
        settings = BaseMaskSettings(args.background, args.background_power,
                                    None if args.no_crf else {}, dataset.background_index)
        is_folder = os.path.isdir(args.source)
        if is_folder:
            check_options(args, dataset)
        write_base_masks(dataset, args.out_dir, settings,
                         None if is_folder else build_model(config, args.source, method='cam_maps'),
                         args.source if is_folder else None, args.flavour, args.scales or [1.0],
                         not args.no_flip, args.threads, args.overwrite, args.batch_size)


if __name__ == '__main__':
    main()
