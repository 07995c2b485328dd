"""Data sets with image-level labels, their samplers and transforms."""
from .coco_objects import COCOObjectDataset
from .image_label_dataset import ImageLabelDataset, use_photos
from .labels import ClassIndex, read_image_labels
from .neighbour_pairs import NeighbourPairDataset
from .samplers import PositionSampler
from .scenes import ScenesDataset
from .tagged_dataset import TaggedDataset
from .transforms import (
    DHRPseudoLabel,
    LoadCAM,
    LoadMixedMask,
    LoadPseudoMask,
    LoadUSSFeatures,
    PackTaggedInputs,
    TrackGeometry,
)
from .weak_shot import WeakShotDataset, novel_labels

__all__ = [
    'COCOObjectDataset', 'ClassIndex', 'DHRPseudoLabel', 'ImageLabelDataset', 'LoadCAM',
    'LoadMixedMask', 'LoadPseudoMask', 'LoadUSSFeatures', 'NeighbourPairDataset',
    'PackTaggedInputs', 'PositionSampler', 'ScenesDataset', 'TaggedDataset', 'TrackGeometry',
    'WeakShotDataset', 'novel_labels', 'read_image_labels', 'use_photos'
]
