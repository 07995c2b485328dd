"""Running a trained model over a data set: what each stage command calls."""
from .base_masks import BaseMaskSettings, mask_from_cam, write_base_masks
from .cams import multi_scale_cam, multi_scale_cams, write_cams
from .common import Photo, list_photos, read_rgb
from .pseudo_labels import STAGES, pseudo_label_stages, write_pseudo_labels
from .uss_features import extract_uss_features, write_uss_features

__all__ = [
    'STAGES', 'BaseMaskSettings', 'Photo', 'extract_uss_features', 'list_photos', 'mask_from_cam',
    'multi_scale_cam', 'multi_scale_cams', 'pseudo_label_stages', 'read_rgb', 'write_base_masks',
    'write_cams', 'write_pseudo_labels', 'write_uss_features'
]
