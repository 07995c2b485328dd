"""Scores as text."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..visualization import format_table
from .scores import Scores

__all__ = ['compare_classes_table', 'per_class_rows', 'per_class_table', 'scores_rows',
           'scores_table']

SCORE_HEADER = ('images', 'count', 'mIoU', 'pixel acc.', 'vanished', 'recall < 10 %',
                'small, recall < 10 %')
CLASS_HEADER = ('class', 'IoU', 'IoU, multi-class')


def scores_rows(scores: Scores) -> list[tuple[str, ...]]:
    """Rows below :data:`SCORE_HEADER`: all images, multi-class images. In per cent."""
    return [(name, str(group.images), _percent(group.miou), _percent(group.accuracy),
             _with_count(group.vanished, group.tagged), _with_count(group.lost, group.measured),
             _with_count(group.small_lost, group.small))
            for name, group in (('all', scores.all), ('multi-class', scores.multi))]


def scores_table(scores: Scores) -> str:
    """The scores as a text table."""
    return format_table(SCORE_HEADER, scores_rows(scores))


def per_class_rows(scores: Scores, classes: Sequence[str]) -> list[tuple[str, ...]]:
    """Rows below :data:`CLASS_HEADER`: the IoU of each class, in per cent."""
    return [(name, _percent(every), _percent(multi))
            for name, every, multi in zip(classes, scores.all.iou, scores.multi.iou, strict=True)]


def per_class_table(scores: Scores, classes: Sequence[str]) -> str:
    """The IoU of each class as a text table."""
    return format_table(CLASS_HEADER, per_class_rows(scores, classes))


def compare_classes_table(scores: Mapping[str, Scores], classes: Sequence[str]) -> str:
    """The IoU of each class over all images, in per cent: a column per entry of ``scores``, and
    the mean in the last line.
    """
    rows = [(name, *(_percent(found.all.iou[label]) for found in scores.values()))
            for label, name in enumerate(classes)]
    means = ('mean', *(_percent(found.all.miou) for found in scores.values()))
    return format_table(('IoU', *scores), [*rows, means])


def _percent(value: float) -> str:
    return '-' if value != value else f'{value:.2f}'


def _with_count(value: float, count: int) -> str:
    return '-' if not count else f'{value:.2f} (of {count})'
