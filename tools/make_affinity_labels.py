"""Write what an affinity network learns from: labels that two backgrounds of CAMs agree on."""
from __future__ import annotations

import argparse
import os

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmseg_dhr.apis import AgreementSettings, write_affinity_labels
from mmseg_dhr.apis.affinity_masks import settings_from
from mmseg_dhr.apis.build import build_dataset
from mmseg_dhr.formats.seeds import FLAVOURS
from mmseg_dhr.utils.cli import add_common_arguments, config_from, friendly_errors
from mmseg_dhr.utils.process import keep_freed_memory


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of an AffinityNetwork; its `agreement` says how')
    parser.add_argument('out_dir', help='folder for {image id}.png, 255 where they disagree')
    parser.add_argument('--cams', required=True, metavar='DIR',
                        help='folder of tools/make_cams.py, or of the '
                        'seeds of another method')
    parser.add_argument('--flavour', choices=['auto', *FLAVOURS], default='auto',
                        help='whose seeds the folder holds (default: what the files look like)')
    add_common_arguments(parser, threads=True)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    keep_freed_memory()
    with friendly_errors(args.debug):
        config = config_from(args)
        settings = settings_from(config, 'agreement', AgreementSettings)
        write_affinity_labels(build_dataset(config), args.out_dir, args.cams, settings,
                              args.flavour, args.threads, args.overwrite)


if __name__ == '__main__':
    main()
