"""Pure tensor functions: no registry, no config, no files."""
from .cam import add_background, fuse_cams, normalize_cam
from .class_pooling import class_area_fractions, class_average_pool, class_similarity
from .dense_crf import DenseCRFParams, dense_crf
from .geometry import AxisAffine, sample_features
from .optimal_transport import min_max_normalize, sinkhorn, transport_scores
from .rebalancing import (
                          MARGINALS,
                          Rebalanced,
                          TransportSettings,
                          class_marginal,
                          correlated_classes,
                          integrate_seeds,
                          labels_from_scores,
                          rebalance_uss,
                          rebalance_wss,
                          recover_seeds,
)

__all__ = [
    'MARGINALS', 'AxisAffine', 'DenseCRFParams', 'Rebalanced', 'TransportSettings',
    'add_background', 'class_area_fractions', 'class_average_pool', 'class_marginal',
    'class_similarity', 'correlated_classes', 'dense_crf', 'fuse_cams', 'integrate_seeds',
    'labels_from_scores', 'min_max_normalize', 'normalize_cam', 'rebalance_uss',
    'rebalance_wss', 'recover_seeds', 'sample_features', 'sinkhorn', 'transport_scores'
]
