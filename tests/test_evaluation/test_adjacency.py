from __future__ import annotations

import math

import numpy as np
import pytest

from mmseg_dhr.evaluation.adjacency import VOC_GROUPS, Adjacency, find_regions, group_ids
from mmseg_dhr.utils import UserError

CLASSES = ['background', 'cat', 'dog', 'bus']
GROUPS = dict(animal=['cat', 'dog'], vehicle=['bus'])


def row(*runs: tuple[int, int], height: int = 2) -> np.ndarray:
    """Columns of (label, width), side by side."""
    line = np.concatenate([np.full(width, label) for label, width in runs])
    return np.tile(line, (height, 1)).astype(np.uint8)


def accumulate(*masks: np.ndarray, background: int | None = 0, reach: float = 20.0) -> Adjacency:
    total = Adjacency(group_ids(CLASSES, GROUPS, 0), background, reach)
    for mask in masks:
        total.update(mask)
    return total


def test_regions_and_distances() -> None:
    mask = row((1, 4), (255, 2), (2, 3), (0, 5), (1, 1))
    cat, other_cat, dog = find_regions(mask)
    assert (cat.label, cat.area, cat.distances) == (1, 8, {2: 3.0})
    assert (other_cat.area, other_cat.distances) == (2, {2: 6.0})
    assert (dog.label, dog.area, dog.distances) == (2, 6, {1: 3.0})
    near = find_regions(mask, reach=3)
    assert near[1].distances == {2: math.inf} and near[0].distances == {2: 3.0}


@pytest.mark.parametrize('seed', range(4))
def test_distances_against_all_pairs_of_pixels(seed) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.choice([0, 1, 2, 3, 255], (9, 13), p=[.8, .05, .05, .05, .05])
    for region in find_regions(mask, reach=4):
        for label, distance in region.distances.items():
            # The nearest pair of the two classes is at least as near as any pair of regions.
            every = [math.dist(p, q) for p in np.argwhere(mask == region.label)
                     for q in np.argwhere(mask == label)]
            assert min(every) <= distance + 1e-3
    labels = {region.label for region in find_regions(mask)}
    for a in labels:
        for b in labels - {a}:
            least = min(region.distances[b] for region in find_regions(mask) if region.label == a)
            expected = min(math.dist(p, q) for p in np.argwhere(mask == a)
                           for q in np.argwhere(mask == b))
            assert least == pytest.approx(expected, abs=1e-3)


def test_corners_hang_together() -> None:
    assert [r.area for r in find_regions(np.array([[1, 0], [0, 1]]))] == [2]
    assert [r.area for r in find_regions(np.array([[1, 0, 1]]))] == [1, 1]


def test_shares_by_hand() -> None:
    # cat (8 px) - 1 px border - dog (6) | bus (4) far away; a second image: one cat of 10 px.
    first = row((1, 4), (255, 1), (2, 3), (0, 8), (3, 2))
    shares = accumulate(first, row((1, 5), (0, 5))).compute(2)
    assert (shares.images, shares.regions) == (2, 4)
    assert shares.of_foreground == pytest.approx(100 * 14 / 28)
    assert shares.of_labelled == pytest.approx(100 * 14 / (34 + 20))
    assert (shares.inter, shares.intra) == (0, 100)
    # Within 9 px the bus meets the dog: dog and bus are inter-class, the cat stays intra-class.
    shares = accumulate(first, row((1, 5), (0, 5))).compute(9)
    assert shares.of_foreground == pytest.approx(100 * 18 / 28)
    assert shares.inter == pytest.approx(100 * 10 / 18)
    assert shares.inter + shares.intra == 100
    # In the whole image the cat has a bus beside it as well.
    assert accumulate(first).compute(math.inf).inter == 100


def test_touching_is_a_distance_of_one() -> None:
    total = accumulate(row((1, 2), (3, 2)))
    assert total.compute(1).of_foreground == 100
    assert math.isnan(total.compute(0.5).inter) and total.compute(0.5).of_foreground == 0


def test_wider_reach_never_loses_area() -> None:
    rng = np.random.default_rng(0)
    masks = [np.kron(rng.integers(0, 4, (6, 6)), np.ones((5, 5))).astype(np.uint8)
             for _ in range(3)]
    total = accumulate(*masks)
    shares = [total.compute(reach).of_foreground for reach in (0.5, 1, 5, 20, math.inf)]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 100


def test_without_background_every_class_is_a_region() -> None:
    total = Adjacency([0, 1], None)
    total.update(row((0, 3), (1, 1)))
    assert total.compute(1)[1:] == (2, 100, 100, 100, 0)


@pytest.mark.parametrize('mask', [np.zeros((3, 4), np.uint8), np.full((3, 4), 255)])
def test_nothing_there(mask) -> None:
    shares = accumulate(mask).compute(5)
    assert (shares.images, shares.regions) == (1, 0)
    assert math.isnan(shares.of_foreground) and math.isnan(shares.inter)
    assert math.isnan(accumulate().compute(5).of_labelled)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r'in \[0, 4\) or 255 \(ignore\), but found 4'):
        accumulate(np.array([[4, 0]]))
    with pytest.raises(ValueError, match='integer mask'):
        find_regions(np.zeros((2, 2)))
    with pytest.raises(ValueError, match='at most 5 px or inf, but got 6'):
        accumulate(reach=5).compute(6)


def test_groups() -> None:
    assert group_ids(CLASSES, GROUPS, 0) == [-1, 0, 0, 1]
    assert group_ids(CLASSES[1:], GROUPS, None) == [0, 0, 1]
    members = [name for group in VOC_GROUPS.values() for name in group]
    assert len(members) == len(set(members)) == 20
    for groups, message in [
        (dict(animal=['cat']), r"\['dog', 'bus'\] are in no group"),
        (dict(GROUPS, more=['cow']), "'cow' of group 'more' is no class"),
        (dict(GROUPS, more=['cat']), "'cat' of group 'more' is in two groups"),
    ]:
        with pytest.raises(UserError, match=message):
            group_ids(CLASSES, groups, 0)


def test_groups_of_voc_fit_mmseg() -> None:
    from mmseg.datasets import PascalVOCDataset

    assert max(group_ids(PascalVOCDataset.METAINFO['classes'], VOC_GROUPS, 0)) == 3
