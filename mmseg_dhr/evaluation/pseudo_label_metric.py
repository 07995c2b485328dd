from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from mmseg.registry import METRICS

from .scores import MaskScores
from .tables import scores_table


@METRICS.register_module()
class PseudoLabelMetric(BaseMetric):
    """mIoU next to what mIoU hides: vanished and lost classes, on all and on multi-class images.

    Tags come from the samples' ``image_labels``; where there are none, the classes that the ground
    truth shows are taken. All figures are in per cent; see
    :class:`mmseg_dhr.evaluation.GroupScores`.

    Args:
        background_index (int, optional): Label index of the background, None for a data set without
            one. Defaults to 0.
        ignore_index (int): Label of pixels that are not scored. Defaults to 255.
        collect_device (str): Device for results of several processes, 'cpu' or 'gpu'. Defaults to
            'cpu'.
        prefix (str, optional): Prefix of the metric's names. Defaults to 'pseudo_label'.
    """

    default_prefix = 'pseudo_label'

    def __init__(self, background_index: int | None = 0, ignore_index: int = 255,
                 collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.background_index = background_index
        self.ignore_index = ignore_index

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Score a batch.

        Args:
            data_batch (Any): Not read.
            data_samples (Sequence[dict]): With ``pred_sem_seg``, ``gt_sem_seg`` and, if known,
                ``image_labels``.

        Raises:
            ValueError: If a prediction does not fit its ground truth; names the image.
        """
        for sample in data_samples:
            # One result per image: mmengine cuts off the images that a distributed sampler repeats.
            scores = MaskScores(len(self.dataset_meta['classes']), self.background_index,
                                self.ignore_index)
            try:
                scores.update(_labels(sample, 'pred_sem_seg'), _labels(sample, 'gt_sem_seg'),
                              sample.get('image_labels'))
            except ValueError as error:
                raise ValueError(f'{sample.get("img_path", "unknown image")}: {error}') from error
            self.results.append(scores)

    def compute_metrics(self, results: list[MaskScores]) -> dict[str, float]:
        """Merge the images' scores and log the table.

        Returns:
            dict[str, float]: ``mIoU``, ``aAcc``, ``vanished``, ``lost``, ``small_lost`` of all
            images and the same with ``_multi`` of those with at least two tags.
        """
        total = MaskScores(results[0].num_classes, self.background_index, self.ignore_index)
        for scores in results:
            total.merge(scores)
        computed = total.compute()
        print_log('\n' + scores_table(computed), MMLogger.get_current_instance())
        metrics = {}
        for suffix, group in (('', computed.all), ('_multi', computed.multi)):
            metrics.update({
                f'mIoU{suffix}': group.miou, f'aAcc{suffix}': group.accuracy,
                f'vanished{suffix}': group.vanished, f'lost{suffix}': group.lost,
                f'small_lost{suffix}': group.small_lost})
        return {name: round(value, 2) for name, value in metrics.items()}


def _labels(sample: dict, key: str) -> np.ndarray:
    """(H, W) labels of a packed map (1, H, W)."""
    return sample[key]['data'][0].cpu().numpy()
