"""Write M_base: CAMs that walk along learnt affinities (PSA, IRNet). One palette PNG per image."""
from __future__ import annotations

import argparse
import os

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmseg_dhr.apis import WalkSettings, write_affinity_masks
from mmseg_dhr.apis.affinity_masks import settings_from
from mmseg_dhr.apis.build import build_dataset, build_model
from mmseg_dhr.formats.seeds import FLAVOURS
from mmseg_dhr.utils.cli import add_common_arguments, config_from, friendly_errors
from mmseg_dhr.utils.process import keep_freed_memory


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of an AffinityNetwork; its `walk` says how')
    parser.add_argument('checkpoint', help='checkpoint of the network')
    parser.add_argument('out_dir', help='folder for {image id}.png')
    parser.add_argument('--cams', required=True, metavar='DIR',
                        help='folder of tools/make_cams.py, or of the '
                        'seeds of another method')
    parser.add_argument('--flavour', choices=['auto', *FLAVOURS], default='auto',
                        help='whose seeds the folder holds (default: what the files look like)')
    parser.add_argument('--boundaries', metavar='DIR',
                        help='folder of tools/make_boundaries.py: walk in two stages (RETAB)')
    parser.add_argument('--crf', action='store_true',
                        help='correct the boundaries of the result, if the config does not')
    parser.add_argument('--maps', action='store_true',
                        help='write the walked maps, {image id}.npz, instead of masks')
    add_common_arguments(parser, batch_size=1, threads=True)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    keep_freed_memory()
    with friendly_errors(args.debug):
        config = config_from(args)
        settings = settings_from(config, 'walk', WalkSettings)
        if args.crf and settings.crf is None:
            settings = settings._replace(crf={})
        model = build_model(config, args.checkpoint, method='walk')
        write_affinity_masks(model, build_dataset(config), args.out_dir, args.cams, settings,
                             args.flavour, args.maps, args.threads, args.batch_size,
                             args.overwrite, args.boundaries)


if __name__ == '__main__':
    main()
