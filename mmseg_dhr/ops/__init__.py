"""Pure tensor functions: no registry, no config, no files."""
from .boundary import BOUNDARY_SOURCES, boundary_loss, boundary_target, label_edges
from .cam import add_background, fuse_cams, normalize_cam
from .class_marginals import MARGINALS, class_marginal
from .class_pooling import (
    class_area_fractions,
    class_average_pool,
    class_similarity,
    majority_vote,
)
from .dense_crf import CRF_BACKENDS, DenseCRFParams, dense_crf, dense_crf_batch
from .geometry import AxisAffine, sample_features
from .optimal_transport import PLANS, min_max_normalize, sinkhorn, transport_scores
from .pamr import pamr
from .random_walk import (
    affinity_from_boundary,
    affinity_from_features,
    neighbour_offsets,
    random_walk,
    two_stage_walk,
)
from .rebalancing import (
    POOLINGS,
    VARIANTS,
    Pooled,
    TransportSettings,
    average_similarity,
    class_correlation,
    correlation_groups,
    integrate_seeds,
    labels_from_scores,
    pooled_similarity,
    rebalance_uss,
    rebalance_wss,
    recover_seeds,
)

__all__ = [
    'BOUNDARY_SOURCES', 'CRF_BACKENDS', 'MARGINALS', 'PLANS', 'POOLINGS', 'VARIANTS', 'AxisAffine',
    'DenseCRFParams', 'Pooled', 'TransportSettings', 'add_background', 'affinity_from_boundary',
    'affinity_from_features', 'average_similarity', 'boundary_loss', 'boundary_target',
    'class_area_fractions', 'class_average_pool', 'class_correlation', 'class_marginal',
    'class_similarity', 'correlation_groups', 'dense_crf', 'dense_crf_batch', 'fuse_cams',
    'integrate_seeds', 'label_edges', 'labels_from_scores', 'majority_vote', 'min_max_normalize',
    'neighbour_offsets', 'normalize_cam', 'pamr', 'pooled_similarity', 'random_walk',
    'rebalance_uss', 'rebalance_wss', 'recover_seeds', 'sample_features', 'sinkhorn',
    'transport_scores', 'two_stage_walk'
]
