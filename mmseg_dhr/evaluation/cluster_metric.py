"""Scores of a segmentation whose clusters have no names yet."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from mmseg.registry import METRICS
from scipy.optimize import linear_sum_assignment

__all__ = ['ClusterMetric', 'match_clusters']


def match_clusters(confusion: np.ndarray) -> np.ndarray:
    """One class for each cluster and one cluster for each class, so that most pixels are right.

    Hungarian matching, the protocol of unsupervised segmentation since IIC (Ji et al., ICCV 2019).

    Args:
        confusion (np.ndarray): Pixels, (clusters, classes).

    Returns:
        np.ndarray: Class of each cluster, int64 (clusters,); -1 where there are more clusters than
            classes and this one got none.
    """
    classes = np.full(len(confusion), -1)
    rows, columns = linear_sum_assignment(confusion, maximize=True)
    classes[rows] = columns
    return classes


@METRICS.register_module()
class ClusterMetric(BaseMetric):
    """Accuracy and mIoU of clusters after Hungarian matching over the whole data set, in per cent.

    The matching sees the true masks: the figures say how well clusters agree with classes, not
    what a segmentor without masks would reach. Pixels of a cluster that got no class are wrong. A
    class that is neither labelled nor predicted stays out of the mean.

    Args:
        num_clusters (int): Labels of the predictions.
        key (str): Field of the samples that holds the prediction. Defaults to 'pred_sem_seg'.
        match (bool): False takes predictions for classes as they are, as for a linear probe.
            Defaults to True.
        ignore_index (int): Label of pixels that are not scored. Defaults to 255.
        collect_device (str): Device for results of several processes, 'cpu' or 'gpu'. Defaults to
            'cpu'.
        prefix (str, optional): Prefix of the metric's names. Defaults to 'cluster'.
    """

    default_prefix = 'cluster'

    def __init__(self, num_clusters: int, key: str = 'pred_sem_seg', match: bool = True,
                 ignore_index: int = 255, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.num_clusters = num_clusters
        self.key = key
        self.match = match
        self.ignore_index = ignore_index

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count a batch.

        Args:
            data_batch (Any): Not read.
            data_samples (Sequence[dict]): With ``gt_sem_seg`` and the field ``key``.

        Raises:
            ValueError: If a prediction does not fit its ground truth; names the image.
        """
        classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            predicted, true = (sample[k]['data'][0].cpu().numpy().astype(np.int64)
                               for k in (self.key, 'gt_sem_seg'))
            where = sample.get('img_path', 'unknown image')
            if predicted.shape != true.shape:
                raise ValueError(f'{where}: expected a prediction of the shape of the ground truth '
                                 f'{true.shape}, but got {predicted.shape}.')
            valid = true != self.ignore_index
            predicted, true = predicted[valid], true[valid]
            _check(predicted, self.num_clusters, where, f'the prediction `{self.key}`')
            _check(true, classes, where, 'the ground truth')
            table = np.bincount(predicted * classes + true, minlength=self.num_clusters * classes)
            self.results.append(table.reshape(self.num_clusters, classes))

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Match clusters with classes and log the table.

        Returns:
            dict[str, float]: ``mIoU`` and ``aAcc``; ``used``, the number of clusters that some
            pixel was given to.
        """
        confusion = np.sum(results, axis=0)
        names = self.dataset_meta['classes']
        matched = match_clusters(confusion) if self.match else np.arange(self.num_clusters)
        iou, accuracy = _scores(confusion, matched)
        lines = [f'{name}: {value:.2f}' for name, value in zip(names, iou, strict=True)]
        print_log(f'{self.prefix}, IoU per class: ' + ', '.join(lines),
                  MMLogger.get_current_instance())
        used = int((confusion.sum(1) > 0).sum())
        return dict(mIoU=round(float(np.nanmean(iou)), 2), aAcc=round(accuracy, 2), used=used)


def _check(labels: np.ndarray, count: int, where: str, what: str) -> None:
    if labels.size and not 0 <= labels.min() <= labels.max() < count:
        raise ValueError(f'{where}: expected labels of {what} in [0, {count}), '
                         f'but found {labels.min()} to {labels.max()}.')


def _scores(confusion: np.ndarray, matched: np.ndarray) -> tuple[np.ndarray, float]:
    """IoU per class and accuracy, in per cent; NaN for a class that does not occur."""
    classes = confusion.shape[1]
    named = np.zeros((classes, classes), np.int64)  # predicted, true
    for cluster, label in enumerate(matched):
        if 0 <= label < classes:
            named[label] += confusion[cluster]
    right = named.diagonal()
    union = named.sum(1) + confusion.sum(0) - right
    iou = np.full(classes, np.nan)
    np.divide(100. * right, union, out=iou, where=union > 0)
    total = confusion.sum()
    return iou, 100. * float(right.sum()) / float(total) if total else float('nan')
