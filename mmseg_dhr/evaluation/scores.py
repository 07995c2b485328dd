"""What one wants to know of a folder of pseudo-labels, in numpy."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ['SMALL_AREA', 'GroupScores', 'MaskScores', 'Scores']

SMALL_AREA = 0.02
"""A class is small in an image where it covers less than this share of all its pixels."""

_LOST_RECALL = 0.1
_GROUPS = 2  # all images, multi-class images
_INTERSECT, _PREDICTED, _LABELLED = range(3)


class GroupScores(NamedTuple):
    """Scores of a group of images, in per cent; NaN where nothing was counted.

    Attributes:
        miou: Mean of ``iou`` over the classes that occur.
        iou: Per class; NaN where a class is neither labelled nor predicted.
        accuracy: Share of the labelled pixels that are right.
        vanished: Share of the tagged classes without a single predicted pixel.
        lost: Share of the tagged classes of which less than a tenth of the true pixels is found.
        small_lost: The same among classes that cover less than 2 % of their image.
        images: Number of images.
        tagged: Tagged classes, summed over images.
        measured: Those that have true pixels.
        small: Those that are small.
    """
    miou: float
    iou: np.ndarray
    accuracy: float
    vanished: float
    lost: float
    small_lost: float
    images: int
    tagged: int
    measured: int
    small: int

    def as_dict(self, classes: Sequence[str] | None = None) -> dict[str, Any]:
        """Plain numbers for JSON; NaN becomes None. ``classes`` names the entries of ``iou``."""
        plain = {name: _number(value) for name, value in self._asdict().items() if name != 'iou'}
        names = range(len(self.iou)) if classes is None else classes
        iou = {str(n): _number(v) for n, v in zip(names, self.iou, strict=True)}
        return {**plain, 'iou': iou}


class Scores(NamedTuple):
    """Scores of all images and of those with at least two tags."""
    all: GroupScores
    multi: GroupScores


class MaskScores:
    """Accumulates the scores of predicted masks.

    Pixels that the ground truth ignores count for nothing. A predicted ``ignore_index`` is no
    class: on a labelled pixel it counts as wrong. A class that is neither labelled nor predicted in
    any image has IoU NaN and stays out of the mean, as in mmseg's ``IoUMetric`` (``nanmean``).

    Args:
        num_classes (int): Number of classes, background included.
        background_index (int, optional): Label index of the background, None if there is none.
        ignore_index (int): Label of pixels that are not scored. Defaults to 255.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> scores = MaskScores(num_classes=2, background_index=0)
        >>> scores.update(np.array([[0, 1]]), np.array([[1, 1]]))
        >>> scores.compute().all.miou
        25.0
    """

    def __init__(self, num_classes: int, background_index: int | None = 0,
                 ignore_index: int = 255) -> None:
        if num_classes < 1:
            raise ValueError(f'Expected num_classes to be positive, but got {num_classes}.')
        if background_index is not None and not 0 <= background_index < num_classes:
            raise ValueError(f'Expected background_index in [0, {num_classes}) or None, '
                             f'but got {background_index}.')
        if 0 <= ignore_index < num_classes:
            raise ValueError(f'Expected ignore_index outside [0, {num_classes}), '
                             f'but got {ignore_index}.')
        self.num_classes = num_classes
        self.background_index = background_index
        self.ignore_index = ignore_index
        self._areas = np.zeros((_GROUPS, 3, num_classes), np.int64)
        # images, tagged, vanished, measured, lost, small, small and lost
        self._counts = np.zeros((_GROUPS, 7), np.int64)

    def update(self, pred: np.ndarray, gt: np.ndarray, tags: Sequence[int] | None = None) -> None:
        """Add one image.

        Args:
            pred (np.ndarray): Predicted labels, integers (H, W).
            gt (np.ndarray): True labels (H, W).
            tags (Sequence[int], optional): Foreground classes of the image. None takes those that
                the ground truth shows.

        Raises:
            ValueError: If shapes differ, or a label or tag is no class (or no integer).
        """
        pred, gt = np.asarray(pred), np.asarray(gt)
        if pred.shape != gt.shape or pred.ndim != 2:
            raise ValueError('Expected prediction and ground truth of one shape (H, W), '
                             f'but got {pred.shape} and {gt.shape}.')
        if pred.dtype.kind not in 'iu' or gt.dtype.kind not in 'iu':
            raise ValueError(f'Expected integer labels, but got {pred.dtype} and {gt.dtype}.')
        valid = gt != self.ignore_index
        areas = np.stack([self._histogram(gt[valid & (pred == gt)], 'ground truth'),
                          self._histogram(pred[valid], 'prediction'),
                          self._histogram(gt[valid], 'ground truth')])
        predicted = self._histogram(pred, 'prediction')
        tags = self._tags(areas[_LABELLED], tags)
        counts = _count_tags(areas, predicted, tags, gt.size)
        for group in range(2 if len(tags) > 1 else 1):
            self._areas[group] += areas
            self._counts[group] += counts

    def merge(self, other: MaskScores) -> MaskScores:
        """Add what another accumulator has seen; returns itself.

        Raises:
            ValueError: If the other one was made for other classes.
        """
        ours = (self.num_classes, self.background_index, self.ignore_index)
        theirs = (other.num_classes, other.background_index, other.ignore_index)
        if ours != theirs:
            raise ValueError('Expected scores of the same (num_classes, background_index, '
                             f'ignore_index) {ours}, but got {theirs}.')
        self._areas += other._areas
        self._counts += other._counts
        return self

    def compute(self) -> Scores:
        """Scores of everything that was added."""
        return Scores(*map(_group_scores, self._areas, self._counts))

    def _histogram(self, labels: np.ndarray, what: str) -> np.ndarray:
        labels = labels[labels != self.ignore_index].ravel()
        if labels.size and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(
                f'Expected labels of the {what} in [0, {self.num_classes}) or {self.ignore_index} '
                f'(ignore), but found {labels.min()} to {labels.max()}.')
        return np.bincount(labels, minlength=self.num_classes)

    def _tags(self, labelled: np.ndarray, tags: Sequence[int] | None) -> list[int]:
        if tags is None:
            tags = np.flatnonzero(labelled).tolist()
            return [tag for tag in tags if tag != self.background_index]
        wrong = [t for t in tags if not 0 <= t < self.num_classes or t == self.background_index]
        if wrong:
            raise ValueError(f'Expected tags to be foreground classes in [0, {self.num_classes}), '
                             f'but got {wrong}.')
        return sorted(set(tags))


def _count_tags(areas: np.ndarray, predicted: np.ndarray, tags: Sequence[int],
                pixels: int) -> np.ndarray:
    """One row of counts for an image with these class areas."""
    true = areas[_LABELLED, tags]
    measured = true > 0
    lost = measured & (areas[_INTERSECT, tags] < _LOST_RECALL * true)
    small = measured & (true < SMALL_AREA * pixels)
    return np.array([1, len(tags), (predicted[tags] == 0).sum(), measured.sum(), lost.sum(),
                     small.sum(), (small & lost).sum()], np.int64)


def _group_scores(areas: np.ndarray, counts: np.ndarray) -> GroupScores:
    union = areas[_PREDICTED] + areas[_LABELLED] - areas[_INTERSECT]
    iou = np.array([_percent(i, u) for i, u in zip(areas[_INTERSECT], union, strict=True)])
    images, tagged, vanished, measured, lost, small, small_lost = (int(c) for c in counts)
    occurs = union > 0
    return GroupScores(
        miou=float(iou[occurs].mean()) if occurs.any() else float('nan'),
        iou=iou,
        accuracy=_percent(areas[_INTERSECT].sum(), areas[_LABELLED].sum()),
        vanished=_percent(vanished, tagged),
        lost=_percent(lost, measured),
        small_lost=_percent(small_lost, small),
        images=images, tagged=tagged, measured=measured, small=small)


def _percent(part: float, whole: float) -> float:
    return 100.0 * float(part) / float(whole) if whole else float('nan')


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value if isinstance(value, int) else float(value)
