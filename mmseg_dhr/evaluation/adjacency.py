"""How much of a data set's area lies in objects that stand beside another class (Fig. 2)."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from ..utils import UserError

__all__ = ['VOC_GROUPS', 'Adjacency', 'AdjacencyShares', 'Region', 'find_regions', 'group_ids']

VOC_GROUPS = dict(
    person=('person', ),
    animal=('bird', 'cat', 'cow', 'dog', 'horse', 'sheep'),
    vehicle=('aeroplane', 'bicycle', 'boat', 'bus', 'car', 'motorbike', 'train'),
    indoor=('bottle', 'chair', 'diningtable', 'pottedplant', 'sofa', 'tvmonitor'))
"""PASCAL VOC's own super-classes (Everingham et al., IJCV 2010)."""


class Region(NamedTuple):
    """A connected part of one class.

    Attributes:
        label: Its class.
        area: In pixels.
        distances: Every other foreground class of the image -> the distance in pixels, centre to
            centre, of its nearest pixel; inf beyond the reach that was searched.
    """
    label: int
    area: int
    distances: Mapping[int, float]


class AdjacencyShares(NamedTuple):
    """Adjacent regions of a data set, in per cent; NaN where nothing was counted.

    Attributes:
        images: Number of masks.
        regions: Number of regions.
        of_foreground: Area of the adjacent regions in the area of all regions.
        of_labelled: The same in the area of all labelled pixels, background included.
        inter: Share of the adjacent area that stands beside another group of classes.
        intra: The rest: beside classes of its own group alone.
    """
    images: int
    regions: int
    of_foreground: float
    of_labelled: float
    inter: float
    intra: float


class Adjacency:
    """Accumulates the regions of masks.

    The paper gives shares (VOC: 35 % adjacent, 79 % of that inter-class) without a definition. Here
    a region is adjacent where a region of another foreground class lies within a distance; the
    label maps of many data sets have an unlabelled border between two objects, so that touching
    regions alone miss most neighbours.

    Args:
        groups (Sequence[int]): Group of each class; see :func:`group_ids`.
        background_index (int, optional): Class that is no region, None if there is none.
        max_reach (float): Largest finite distance that :meth:`compute` can be asked for, in pixels.
            Defaults to 20.
        ignore_index (int): Label of unlabelled pixels. Defaults to 255.
    """

    def __init__(self, groups: Sequence[int], background_index: int | None = 0,
                 max_reach: float = 20.0, ignore_index: int = 255) -> None:
        self.groups = list(groups)
        self.background_index = background_index
        self.max_reach = max_reach
        self.ignore_index = ignore_index
        self._images = 0
        self._labelled = 0
        # Of each region: area, distance to another class, distance to another group. A class that
        # is not in the image is at NaN, which is within no reach.
        self._regions: list[tuple[float, float, float]] = []

    def update(self, mask: np.ndarray) -> None:
        """Add the mask of an image, integers (H, W).

        Raises:
            ValueError: If a label is no class, or the mask is no map of integers.
        """
        regions = find_regions(mask, self.background_index, self.max_reach, self.ignore_index)
        if any(region.label >= len(self.groups) for region in regions):
            raise ValueError(f'Expected labels in [0, {len(self.groups)}) or {self.ignore_index} '
                             f'(ignore), but found {max(r.label for r in regions)}.')
        self._images += 1
        self._labelled += int((np.asarray(mask) != self.ignore_index).sum())
        for region in regions:
            group = self.groups[region.label]
            others = [d for label, d in region.distances.items() if self.groups[label] != group]
            self._regions.append((region.area, min(region.distances.values(), default=math.nan),
                                  min(others, default=math.nan)))

    def compute(self, reach: float) -> AdjacencyShares:
        """Shares for a distance in pixels; inf counts all classes of an image as neighbours.

        Raises:
            ValueError: If the distance is beyond the one that was searched.
        """
        if math.isfinite(reach) and reach > self.max_reach:
            raise ValueError(f'Expected reach of at most {self.max_reach} px or inf, '
                             f'but got {reach}.')
        area, nearest, nearest_other = np.array(self._regions, np.float64).reshape(-1, 3).T
        adjacent = area[nearest <= reach].sum()
        inter = _percent(area[nearest_other <= reach].sum(), adjacent)
        return AdjacencyShares(self._images, len(area), _percent(adjacent, area.sum()),
                               _percent(adjacent, self._labelled), inter, 100 - inter)


def find_regions(mask: np.ndarray, background_index: int | None = 0, reach: float = 20.0,
                 ignore_index: int = 255) -> list[Region]:
    """The regions of a mask: pixels of one class that hang together (corners count).

    Args:
        mask (np.ndarray): Labels, integers (H, W).
        background_index (int, optional): Class that is no region; None if there is none.
        reach (float): Distances beyond it are given as inf. Defaults to 20.
        ignore_index (int): Label of unlabelled pixels. Defaults to 255.

    Raises:
        ValueError: If the mask is no map of integers.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in 'iu':
        raise ValueError(f'Expected an integer mask (H, W), but got {mask.dtype} {mask.shape}.')
    labels = [int(c) for c in np.unique(mask) if c not in (background_index, ignore_index)]
    regions = []
    for label in labels:
        count, parts, stats, _ = cv2.connectedComponentsWithStats((mask == label).astype(np.uint8))
        for part in range(1, count):
            left, top, width, height, area = stats[part].tolist()
            window = _window((left, top, width, height), math.ceil(reach))
            near = _distances(parts[window] == part, mask[window], reach)
            others = {other: near.get(other, math.inf) for other in labels if other != label}
            regions.append(Region(label, area, others))
    return regions


def _window(box: tuple[int, int, int, int], margin: int) -> tuple[slice, slice]:
    left, top, width, height = box
    return (slice(max(0, top - margin), top + height + margin),
            slice(max(0, left - margin), left + width + margin))


def _distances(region: np.ndarray, labels: np.ndarray, reach: float) -> dict[int, float]:
    """Distance of the labels around a region that are within reach."""
    far = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    far = far.round(3)  # a distance of 3 is 3, whatever OpenCV's arithmetic
    close = ~region & (far <= reach)
    return {int(label): float(far[close & (labels == label)].min())
            for label in np.unique(labels[close])}


def group_ids(classes: Sequence[str], groups: Mapping[str, Sequence[str]],
              background_index: int | None = 0) -> list[int]:
    """The group of each class, as a number; the background has none, -1.

    Args:
        classes (Sequence[str]): In the order of the labels.
        groups (Mapping): Name of a group -> names of its classes.
        background_index (int, optional): Which class needs no group.

    Raises:
        UserError: If a class is in no group or in two, or a group names an unknown class.
    """
    found: dict[str, int] = {}
    for number, (name, members) in enumerate(groups.items()):
        for member in members:
            if member not in classes or member in found:
                why = 'is in two groups' if member in found else 'is no class of the data set'
                raise UserError(f'Groups of classes: {member!r} of group {name!r} {why}.')
            found[member] = number
    wanted = [name for i, name in enumerate(classes) if i != background_index]
    if missing := [name for name in wanted if name not in found]:
        raise UserError(f'Groups of classes: {missing} are in no group. Every class but the '
                        'background needs one; give a JSON file {group: [classes]}.')
    return [-1 if i == background_index else found[name] for i, name in enumerate(classes)]


def _percent(part: float, whole: float) -> float:
    return 100.0 * float(part) / float(whole) if whole else float('nan')
