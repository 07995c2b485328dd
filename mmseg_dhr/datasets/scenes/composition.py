"""Which objects a scene shows and where they lie."""
from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .classes import CLASSES, GROUPS, LARGE, SMALL, STYLES
from .shapes import SHAPES, coverage, local_coordinates

__all__ = ['SceneObject', 'compose']

_LARGE_COUNTS = (0.30, 0.45, 0.25)  # one, two, three large objects
_SIBLINGS = 0.45  # look-alikes together, where there are two or more large objects
_REPEAT = 0.15  # the last of three large objects repeats the class of the first
_ADJACENT = 0.75  # a further large object touches one that is already there
_SMALL_SHARE = 0.60  # scenes with small objects
_SMALL_ATTACHED = 0.88  # a small object lies on the rim of a large one
_SQUASH = (0.78, 1.0)  # shorter second axis, as of a plate seen at an angle
_VISIBLE_LARGE, _VISIBLE_SMALL, _VISIBLE_MARK = 0.45, 0.80, 0.85  # least share to be seen
_MARK_RADIUS = (0.27, 0.33)  # in units of the object's radius
_MAX_TAGS = 4
_MAX_TRIES = 2000


@dataclass(frozen=True)
class SceneObject:
    """Geometry of one object; lengths and positions in pixels, angles in radians.

    Args:
        label (int): Label index of its class.
        centre (tuple[float, float]): (x, y).
        radius (float): Unit of the object's frame.
        angle (float): Rotation.
        squash (float): Length of the second axis in units of ``radius``.
        mark_centre (tuple[float, float]): (u, v) of the mark in the object's frame.
        mark_radius (float): Unit of the mark's frame.
        mark_angle (float): Rotation of the mark.
    """
    label: int
    centre: tuple[float, float]
    radius: float
    angle: float
    squash: float
    mark_centre: tuple[float, float]
    mark_radius: float
    mark_angle: float

    def frame(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates (u, v) in the object's frame."""
        u, v = local_coordinates(size, self.centre, self.radius, self.angle)
        return u, v / self.squash

    def alpha(self, size: int) -> np.ndarray:
        """Share of each pixel that the object covers, (size, size) in [0, 1]."""
        shape = SHAPES[STYLES[CLASSES[self.label - 1].group].shape]
        return coverage(shape(*self.frame(size)), self.radius)

    def mark_alpha(self, size: int) -> np.ndarray | None:
        """The same for the mark; None for a class without one."""
        mark = CLASSES[self.label - 1].mark
        if mark is None:
            return None
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        u, v = self.mark_centre[0], self.mark_centre[1] * self.squash
        centre = (self.centre[0] + self.radius * (cos * u - sin * v),
                  self.centre[1] + self.radius * (sin * u + cos * v))
        frame = local_coordinates(size, centre, self.mark_radius, self.mark_angle)
        return coverage(SHAPES[mark](*frame), self.mark_radius)


def _choose_large(rng: np.random.Generator) -> list[int]:
    count = 1 + int(rng.choice(len(_LARGE_COUNTS), p=_LARGE_COUNTS))
    if count > 1 and rng.random() < _SIBLINGS:
        pair = GROUPS[rng.integers(len(GROUPS))]
        others = rng.permutation([label for label in LARGE if label not in pair])
        labels = [*pair, *others[:count - 2].tolist()]
    else:
        labels = rng.permutation(LARGE)[:count].tolist()
    if count == 3 and rng.random() < _REPEAT:
        labels[2] = labels[0]
    return rng.permutation(labels).tolist()


def _choose_small(rng: np.random.Generator, room: int) -> list[int]:
    if rng.random() >= _SMALL_SHARE:
        return []
    kinds = rng.permutation(SMALL)[:min(room, 1 + int(rng.random() < 0.15))]
    return [int(kind) for kind in kinds for _ in range(rng.integers(1, 3))]


def _place(rng: np.random.Generator, label: int, others: list[SceneObject],
           size: int) -> SceneObject:
    style = STYLES[CLASSES[label - 1].group]
    radius = size * rng.uniform(*style.radius)
    attached = rng.random() < (_SMALL_ATTACHED if label in SMALL else _ADJACENT)
    if others and attached:
        host = others[rng.integers(len(others))]
        distance = (host.radius * rng.uniform(0.55, 1.0) if label in SMALL else
                    (host.radius + radius) * rng.uniform(0.70, 0.95))
        direction = rng.uniform(0, 2 * np.pi)
        centre = (host.centre[0] + distance * np.cos(direction),
                  host.centre[1] + distance * np.sin(direction))
    else:
        centre = tuple(rng.uniform(0.12 * size, 0.88 * size, 2))
    mark_centre = rng.uniform((-0.42, -0.22), (0.42, 0.22))
    return SceneObject(
        label=label, centre=(float(centre[0]), float(centre[1])), radius=float(radius),
        angle=float(rng.uniform(0, 2 * np.pi)), squash=float(rng.uniform(*_SQUASH)),
        mark_centre=(float(mark_centre[0]), float(mark_centre[1])),
        mark_radius=float(radius * rng.uniform(*_MARK_RADIUS)),
        mark_angle=float(rng.uniform(0, 2 * np.pi)))


@cache
def _unit_area(shape: str) -> float:
    """Area of a whole outline of radius 1; the part of an object beyond the image counts."""
    frame = local_coordinates(120, (60., 60.), 40., 0.)
    return float((SHAPES[shape](*frame) < 0).sum() / 40.**2)


def _all_recognisable(objects: list[SceneObject], size: int) -> bool:
    """Whether enough of every object, and nearly all of every mark, can be seen."""
    free = np.ones((size, size), np.float32)
    for item in reversed(objects):
        scene_class = CLASSES[item.label - 1]
        alpha, mark = item.alpha(size), item.mark_alpha(size)
        area = _unit_area(STYLES[scene_class.group].shape) * item.radius**2 * item.squash
        least = _VISIBLE_SMALL if scene_class.mark is None else _VISIBLE_LARGE
        if (alpha * free).sum() < least * area:
            return False
        if mark is not None:
            area = _unit_area(scene_class.mark) * item.mark_radius**2
            if (mark * alpha * free).sum() < _VISIBLE_MARK * area:
                return False
        free = np.minimum(free, 1 - alpha)
    return True


def compose(rng: np.random.Generator, size: int) -> list[SceneObject]:
    """Choose the objects of one scene and place them, back to front.

    The classes are chosen first and only their placement is drawn again when an object would be
    hidden, so that crowded scenes are as frequent as chosen.

    Args:
        rng (np.random.Generator): Source of randomness.
        size (int): Side of the image.

    Returns:
        list[SceneObject]: At least one large object; small objects come last, in front.

    Raises:
        RuntimeError: If no placement shows every object.
    """
    large = _choose_large(rng)
    small = _choose_small(rng, _MAX_TAGS - len(set(large)))
    for _ in range(_MAX_TRIES):
        objects: list[SceneObject] = []
        for label in large:
            objects.append(_place(rng, label, objects, size))
        hosts = list(objects)
        objects += [_place(rng, label, hosts, size) for label in small]
        if _all_recognisable(objects, size):
            return objects
    raise RuntimeError(f'Found no placement of labels {large + small} in {_MAX_TRIES} tries '
                       f'on an image of side {size}; a larger `size` leaves more room.')
