"""How fast are the operators, training and the commands, next to their references?"""
from .crf import crf_rows
from .ot import ot_rows
from .photos import Photo, draw_photos, load_photos
from .timing import Row, Setup, Spread
from .tools import limit_images, scenes_config, tool_rows, write_inputs
from .train import train_rows
from .walk import walk_rows

__all__ = [
    'Photo', 'Row', 'Setup', 'Spread', 'crf_rows', 'draw_photos', 'limit_images', 'load_photos',
    'ot_rows', 'scenes_config', 'tool_rows', 'train_rows', 'walk_rows',
    'write_inputs'
]
