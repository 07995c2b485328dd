"""The classes of the synthetic scenes: names, groups, looks and palette."""
from __future__ import annotations

from dataclasses import dataclass

__all__ = ['CLASSES', 'GROUPS', 'LARGE', 'PALETTE', 'SMALL', 'STYLES', 'SceneClass', 'Style']


@dataclass(frozen=True)
class SceneClass:
    """One foreground class.

    Args:
        name (str): Readable name.
        group (str): Key of :data:`STYLES`; classes of one group share their look.
        mark (str, optional): The detail that tells the class from its look-alike; a key of
            :data:`~mmseg_dhr.datasets.scenes.shapes.SHAPES`. None for the small classes.
        light_mark (bool): Whether that detail is lighter than the object. Defaults to False.
    """
    name: str
    group: str
    mark: str | None = None
    light_mark: bool = False


@dataclass(frozen=True)
class Style:
    """What all objects of one group have in common.

    Args:
        shape (str): Outline, a key of :data:`~mmseg_dhr.datasets.scenes.shapes.SHAPES`.
        hsv (tuple[float, float, float]): Mean hue, saturation and value in [0, 1].
        texture (str): Surface, see :func:`~mmseg_dhr.datasets.scenes.textures.surface`.
        radius (tuple[float, float]): Range of the radius, as a share of the image side.
    """
    shape: str
    hsv: tuple[float, float, float]
    texture: str
    radius: tuple[float, float]


_LARGE_RADIUS = (0.145, 0.25)
_BEAD_RADIUS = (0.042, 0.065)
_CHIP_RADIUS = (0.058, 0.080)  # larger, as a diamond fills less of its circle

STYLES: dict[str, Style] = {
    'disc': Style('disc', (0.045, 0.74, 0.80), 'grooves', _LARGE_RADIUS),
    'box': Style('box', (0.600, 0.62, 0.72), 'planks', _LARGE_RADIUS),
    'leaf': Style('leaf', (0.300, 0.58, 0.62), 'speckles', _LARGE_RADIUS),
    'bead': Style('disc', (0.880, 0.75, 0.82), 'highlight', _BEAD_RADIUS),
    # A lighter tone of the boxes' colour family.
    'chip': Style('diamond', (0.535, 0.55, 0.90), 'facet', _CHIP_RADIUS),
}

CLASSES: tuple[SceneClass, ...] = (
    SceneClass('ring_disc', 'disc', 'ring', light_mark=True),
    SceneClass('dot_disc', 'disc', 'dot'),
    SceneClass('bar_box', 'box', 'bar'),
    SceneClass('cross_box', 'box', 'cross', light_mark=True),
    SceneClass('chevron_leaf', 'leaf', 'chevron', light_mark=True),
    SceneClass('twin_leaf', 'leaf', 'twin'),
    SceneClass('bead', 'bead'),
    SceneClass('chip', 'chip'),
)
"""Foreground classes; label index = position + 1, 0 is the background."""

LARGE: tuple[int, ...] = tuple(i for i, c in enumerate(CLASSES, 1) if c.mark is not None)
SMALL: tuple[int, ...] = tuple(i for i, c in enumerate(CLASSES, 1) if c.mark is None)
GROUPS: tuple[tuple[int, ...], ...] = tuple(
    tuple(i for i in LARGE if CLASSES[i - 1].group == group) for group in ('disc', 'box', 'leaf'))
"""Label indices of the look-alikes."""

PALETTE: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0), (214, 72, 36), (250, 176, 96), (32, 78, 200), (120, 190, 250),
    (24, 122, 48), (160, 214, 92), (204, 40, 160), (0, 196, 196))
"""RGB colours of background and classes, close within a group."""
