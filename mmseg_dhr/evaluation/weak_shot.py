"""mIoU over base and novel classes (RETAB, Section 4.1)."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.logging import MMLogger, print_log
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS

from ..datasets.weak_shot import novel_labels
from ..visualization import format_table

__all__ = ['BaseNovelIoUMetric', 'base_novel_means', 'base_novel_table']


def base_novel_means(iou: np.ndarray, novel: Sequence[int]) -> dict[str, float]:
    """Means of IoU over all, base and novel classes.

    Args:
        iou (np.ndarray): Per class (C,); NaN where a class does not occur, which counts for none.
        novel (Sequence[int]): Label indices of the novel classes; the background is a base class.

    Returns:
        dict[str, float]: ``all``, ``base``, ``novel``; NaN where no class occurs.
    """
    is_novel = np.isin(np.arange(len(iou)), list(novel))
    return {name: _mean(iou[chosen]) for name, chosen in
            (('all', np.ones_like(is_novel)), ('base', ~is_novel), ('novel', is_novel))}


def base_novel_table(means: dict[str, float]) -> str:
    """The three means, in per cent, as a text table."""
    return format_table(('mIoU', *means), [('', *(f'{value:.2f}' for value in means.values()))])


@METRICS.register_module()
class BaseNovelIoUMetric(IoUMetric):
    """mmseg's ``IoUMetric`` and ``base_mIoU``, ``novel_mIoU`` beside its ``mIoU``, in per cent.

    Args:
        novel (str or Sequence): See :func:`mmseg_dhr.datasets.novel_labels`.
        background_index (int, optional): Of the data set. Defaults to 0.
        **kwargs: Arguments of ``IoUMetric``.
    """

    def __init__(self, novel: str | Sequence[str | int], background_index: int | None = 0,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.novel = novel
        self.background_index = background_index

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The metrics of ``IoUMetric`` and the means over base and novel classes."""
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        labels = novel_labels(self.novel, self.dataset_meta['classes'], self.background_index)
        intersect = sum(result[0] for result in results).double().numpy()
        union = sum(result[1] for result in results).double().numpy()
        with np.errstate(invalid='ignore'):
            means = base_novel_means(100 * intersect / union, labels)
        print_log('\n' + base_novel_table(means), MMLogger.get_current_instance())
        metrics.update({f'{name}_mIoU': round(means[name], 2) for name in ('base', 'novel')})
        return metrics


def _mean(iou: np.ndarray) -> float:
    occurs = ~np.isnan(iou)
    return float(iou[occurs].mean()) if occurs.any() else float('nan')
