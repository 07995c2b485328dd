"""Synthetic scenes that the package draws itself."""
from .classes import CLASSES, GROUPS, LARGE, PALETTE, SMALL, SceneClass
from .dataset import ScenesDataset
from .drawing import Scene, draw_scene
from .writer import SceneParameters, write_scenes

__all__ = [
    'CLASSES', 'GROUPS', 'LARGE', 'PALETTE', 'SMALL', 'Scene', 'SceneClass', 'SceneParameters',
    'ScenesDataset', 'draw_scene', 'write_scenes'
]
