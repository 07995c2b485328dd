"""Scores of masks and the metrics and hooks that show them."""
from .cluster_metric import ClusterMetric, match_clusters
from .folders import MaskPair, list_pairs, match_masks, score_pairs
from .hooks import MaskWriterHook, TestProgressHook, VOCSubmissionHook
from .pseudo_label_metric import PseudoLabelMetric
from .scores import SMALL_AREA, GroupScores, MaskScores, Scores
from .tables import compare_classes_table, per_class_table, scores_table
from .weak_shot import BaseNovelIoUMetric, base_novel_means, base_novel_table

__all__ = [
    'SMALL_AREA', 'BaseNovelIoUMetric', 'ClusterMetric', 'GroupScores', 'MaskPair', 'MaskScores',
    'MaskWriterHook', 'PseudoLabelMetric', 'Scores', 'TestProgressHook', 'VOCSubmissionHook',
    'base_novel_means', 'base_novel_table', 'compare_classes_table', 'list_pairs', 'match_clusters',
    'match_masks', 'per_class_table', 'score_pairs', 'scores_table'
]
