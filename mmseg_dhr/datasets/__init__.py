"""Data sets with image-level labels, their samplers and transforms."""
from .labels import ClassIndex, read_image_labels
from .neighbour_pairs import NeighbourPairDataset
from .samplers import PositionSampler
from .scenes import ScenesDataset
from .tagged_dataset import TaggedDataset
from .transforms import (
    DHRPseudoLabel,
    LoadCAM,
    LoadPseudoMask,
    LoadUSSFeatures,
    PackTaggedInputs,
    TrackGeometry,
)

__all__ = [
    'ClassIndex', 'DHRPseudoLabel', 'LoadCAM', 'LoadPseudoMask', 'LoadUSSFeatures',
    'NeighbourPairDataset', 'PackTaggedInputs', 'PositionSampler', 'ScenesDataset', 'TaggedDataset',
    'TrackGeometry', 'read_image_labels'
]
