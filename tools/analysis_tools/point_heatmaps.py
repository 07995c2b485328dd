"""Which pixels have features like this one's? USS and WSS features of an image (Fig. 3).

Writes a picture with a row per point: the photo, then the cosine of each feature map with the
feature at the point, blue (0 or less) to red (1).
"""
from __future__ import annotations

import argparse
import os
from pathlib import Path

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmseg_dhr.apis.analysis import settings_of, settings_text
from mmseg_dhr.apis.build import build_dataset, build_model
from mmseg_dhr.apis.heatmaps import point_maps
from mmseg_dhr.utils.cli import add_config_arguments, config_from, friendly_errors
from mmseg_dhr.visualization import cam_heatmap
from mmseg_dhr.visualization.pictures import Picture, plot_pictures


def point(text: str) -> tuple[int, int]:
    """'X,Y' as two numbers."""
    x, y = map(int, text.split(','))
    return x, y


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='gives the WSS features')
    parser.add_argument('image', help='image id: the name of its file without the ending')
    parser.add_argument('--points', type=point, nargs='+', metavar='X,Y',
                        help="in pixels from the top left corner (default: the CAM's peak of each "
                        'tag)')
    parser.add_argument('--out', help='PNG (default: WORK_DIR/point_heatmaps/IMAGE.png)')
    add_config_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with friendly_errors(args.debug):
        config = config_from(args)
        image, found = point_maps(build_model(config, args.checkpoint), build_dataset(config),
                                  args.image, args.points)
        rows = [[Picture(maps.title, image, maps.point),
                 *(Picture(name, cam_heatmap(cosine, image), maps.point)
                   for name, cosine in maps.maps.items())] for maps in found]
        out = args.out or Path(config.work_dir) / 'point_heatmaps' / f'{args.image}.png'
        plot_pictures(out, rows)
        settings = settings_of(config, checkpoint=args.checkpoint, image=args.image,
                               points=[maps.point for maps in found])
        del settings['propagation']
        print(f'{settings_text(settings)}\n\nPicture: {out}')


if __name__ == '__main__':
    main()
