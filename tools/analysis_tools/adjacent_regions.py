"""How much of the objects' area lies beside another class? (Fig. 2)

Counts the regions of the true masks (`score_masks` of the config) that have a region of another
class within a distance, and how much of that is beside another group of classes ("inter-class":
animal beside vehicle) or beside its own group alone ("intra-class": cat beside dog).
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

from mmengine.config import Config
from tqdm import tqdm

from mmseg_dhr.apis import list_photos
from mmseg_dhr.apis.analysis import settings_of, settings_text, truth_folder, write_result
from mmseg_dhr.apis.build import build_dataset
from mmseg_dhr.apis.common import read_truth
from mmseg_dhr.evaluation.adjacency import VOC_GROUPS, Adjacency, AdjacencyShares, group_ids
from mmseg_dhr.utils import UserError
from mmseg_dhr.utils.cli import add_config_arguments, config_from, friendly_errors
from mmseg_dhr.visualization import format_table

HEADER = ('neighbours within', 'adjacent, % of objects', '% of all labelled', 'inter-class %',
          'intra-class %')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--groups', metavar='FILE',
                        help='JSON {group: [classes]} (default: the groups of PASCAL VOC)')
    parser.add_argument('--reach', type=float, nargs='+', default=[2, 5, 10, 20],
                        help='distances in pixels; the whole image is added (default: 2 5 10 20)')
    parser.add_argument('--out', help='folder (default: WORK_DIR/adjacent_regions)')
    add_config_arguments(parser)
    return parser.parse_args()


def read_groups(path: str | None) -> dict[str, list[str]]:
    """Groups of a file, or those of VOC.

    Raises:
        UserError: If the file is missing or holds something else.
    """
    if path is None:
        return {name: list(members) for name, members in VOC_GROUPS.items()}
    try:
        return {str(name): list(map(str, members))
                for name, members in json.loads(Path(path).read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f'{path}: expected JSON {{group: [classes]}}, but could not read it '
                        f'({error}).') from error


def run(args: argparse.Namespace, config: Config) -> dict[float, AdjacencyShares]:
    """Shares by distance."""
    dataset = build_dataset(config)
    truth = truth_folder(config, dataset)
    groups = group_ids(dataset.metainfo['classes'], read_groups(args.groups),
                       dataset.background_index)
    total = Adjacency(groups, dataset.background_index, max(args.reach))
    for photo in tqdm(list_photos(dataset), desc='true masks', mininterval=1.0):
        mask = read_truth(truth, photo)
        try:
            total.update(mask)
        except ValueError as error:
            raise UserError(f'{truth.path(photo)}: {error}') from error
    return {reach: total.compute(reach) for reach in (*args.reach, float('inf'))}


def main() -> None:
    args = parse_args()
    with friendly_errors(args.debug):
        config = config_from(args)
        found = run(args, config)
        first = next(iter(found.values()))
        settings = settings_of(config, groups=args.groups or 'VOC')
        del settings['propagation'], settings['seed']  # nothing here depends on them
        table = [('the whole image' if reach == float('inf') else f'{reach:g} px',
                  *('-' if value != value else f'{value:.1f}' for value in shares[2:]))
                 for reach, shares in found.items()]
        text = (f'{first.regions} regions in {first.images} true masks; '
                f'{settings_text(settings)}\n{format_table(HEADER, table)}')
        path = write_result(args.out or Path(config.work_dir) / 'adjacent_regions',
                            'adjacent_regions', text, settings,
                            {str(reach): shares._asdict() for reach, shares in found.items()})
        print(f'\n{text}\n\nFigures: {path}')


if __name__ == '__main__':
    main()
