"""Running a trained model over a data set: what each stage command calls."""
from .affinity_masks import (
    AgreementSettings,
    WalkSettings,
    write_affinity_labels,
    write_affinity_masks,
)
from .base_masks import BaseMaskSettings, mask_from_cam, write_base_masks
from .boundaries import write_boundaries
from .cams import multi_scale_cam, multi_scale_cams, write_cams
from .common import Photo, list_photos, read_rgb
from .debiasing import DebiasSettings, write_debiased_masks
from .pseudo_labels import STAGES, pseudo_label_stages, write_pseudo_labels
from .uss_features import extract_uss_features, write_uss_features

__all__ = [
    'STAGES', 'AgreementSettings', 'BaseMaskSettings', 'DebiasSettings', 'Photo', 'WalkSettings',
    'extract_uss_features', 'list_photos', 'mask_from_cam', 'multi_scale_cam', 'multi_scale_cams',
    'pseudo_label_stages', 'read_rgb', 'write_affinity_labels', 'write_affinity_masks',
    'write_base_masks', 'write_boundaries', 'write_cams', 'write_debiased_masks',
    'write_pseudo_labels', 'write_uss_features'
]
