"""Check the data of a config before a long training: images, tags, masks, and how many there are.

A number that is not the official one is a warning, for a subset is no mistake. What is missing is
an error.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmseg_dhr.datasets.converters import check_config
from mmseg_dhr.utils import friendly_errors
from mmseg_dhr.utils.cli import add_config_arguments, config_from


def main(argv: Sequence[str] | None = None) -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config, such as configs/dhr/ade_r101.py')
    add_config_arguments(parser)
    args = parser.parse_args(argv)
    with friendly_errors(args.debug):
        check_config(config_from(args))


if __name__ == '__main__':
    main()
