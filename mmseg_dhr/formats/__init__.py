"""File formats: masks, activation maps, features, manifests, safe reading of foreign files."""
from .atomic import atomic_path
from .cams import CAM, read_cam, write_cam
from .features import mean_feature, read_features, write_features
from .manifest import (
    MANIFEST_NAME,
    Manifest,
    OutputFolder,
    open_output,
    origin_of,
    state_fingerprint,
)
from .masks import read_mask, write_mask
from .pickles import UnsafePickleError, load_npy, load_pickle
from .torch_files import load_torch_file

__all__ = [
    'CAM', 'MANIFEST_NAME', 'Manifest', 'OutputFolder', 'UnsafePickleError', 'atomic_path',
    'load_npy', 'load_pickle', 'load_torch_file', 'mean_feature', 'open_output', 'origin_of',
    'read_cam', 'read_features', 'read_mask', 'state_fingerprint', 'write_cam', 'write_features',
    'write_mask'
]
