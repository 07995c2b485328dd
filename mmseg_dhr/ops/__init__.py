"""Pure tensor functions: no registry, no config, no files."""
from .affinity_loss import AffinityLosses, affinity_losses, agreed_labels
from .boundary import BOUNDARY_SOURCES, boundary_loss, boundary_target, label_edges
from .cam import add_background, fuse_cams, normalize_cam
from .class_marginals import MARGINALS, class_marginal
from .class_pooling import (
    class_area_fractions,
    class_average_pool,
    class_similarity,
    majority_vote,
)
from .climbing import Climbing, climb
from .debiasing import (
    Clusters,
    centroid_similarity,
    class_clusters,
    remove_biased,
    select_debiased,
    spherical_kmeans,
)
from .dense_crf import CRF_BACKENDS, DenseCRFParams, dense_crf, dense_crf_batch
from .equivariance import (
    cam_scores,
    cross_equivariance_loss,
    equivariance_loss,
    pixel_correlation,
)
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
    'BOUNDARY_SOURCES', 'CRF_BACKENDS', 'MARGINALS', 'PLANS', 'POOLINGS', 'VARIANTS',
    'AffinityLosses', 'AxisAffine', 'Climbing', 'Clusters', 'DenseCRFParams', 'Pooled',
    'TransportSettings', 'add_background', 'affinity_from_boundary', 'affinity_from_features',
    'affinity_losses', 'agreed_labels', 'average_similarity', 'boundary_loss', 'boundary_target',
    'cam_scores', 'centroid_similarity', 'class_area_fractions', 'class_average_pool',
    'class_clusters', 'class_correlation', 'class_marginal', 'class_similarity', 'climb',
    'correlation_groups', 'cross_equivariance_loss', 'dense_crf', 'dense_crf_batch',
    'equivariance_loss', 'fuse_cams', 'integrate_seeds', 'label_edges', 'labels_from_scores',
    'majority_vote', 'min_max_normalize', 'neighbour_offsets', 'normalize_cam', 'pamr',
    'pixel_correlation', 'pooled_similarity', 'random_walk', 'rebalance_uss', 'rebalance_wss',
    'recover_seeds', 'remove_biased', 'sample_features', 'select_debiased', 'sinkhorn',
    'spherical_kmeans', 'transport_scores', 'two_stage_walk'
]
