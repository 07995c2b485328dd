"""The five benchmarks in miniature, drawn in the layout that a user has on the disk.

``draw_{voc,coco,context,ade,stuff}(root)`` draw what a user downloads or MMSegmentation's
converters make; ``ready=True`` adds what the commands of this package would make of it, so that the
configs of ``configs/dhr`` run at once::

    drawn = draw('coco', tmp_path / 'coco')
    run_tool('train', 'configs/dhr/coco_r101.py', '--data-root', drawn.root, '--work-dir', 'run',
             '--cfg-options', *SMALL_DATA, *SMALL_R101, *RANDOM_VIT, *short_run(4, warmup=2))
"""
from __future__ import annotations

from .coco import draw_coco, draw_stuff
from .common import Drawn
from .pascal import draw_context, draw_voc
from .scenes import draw_ade
from .shrink import (
    RANDOM_VIT,
    SMALL_DATA,
    SMALL_LOADERS,
    SMALL_R101,
    short_run,
)

__all__ = ['DATA_SETS', 'Drawn', 'RANDOM_VIT', 'SMALL_DATA', 'SMALL_LOADERS', 'SMALL_R101', 'draw',
           'draw_ade', 'draw_coco', 'draw_context', 'draw_stuff', 'draw_voc', 'short_run']

DATA_SETS = dict(voc=draw_voc, coco=draw_coco, context=draw_context, ade=draw_ade,
                 stuff=draw_stuff)


def draw(name, root, ready=True) -> Drawn:
    """Draw a data set by its name in the configs: voc, coco, context, ade or stuff."""
    return DATA_SETS[name](root, ready)
