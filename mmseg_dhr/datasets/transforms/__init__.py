"""Transforms of the data pipeline."""
from .formatting import PackTaggedInputs
from .geometry import TrackGeometry
from .loading import LoadCAM, LoadPseudoMask, LoadUSSFeatures
from .pseudo_label import DHRPseudoLabel
from .weak_shot import LoadMixedMask

__all__ = [
    'DHRPseudoLabel', 'LoadCAM', 'LoadMixedMask', 'LoadPseudoMask', 'LoadUSSFeatures',
    'PackTaggedInputs', 'TrackGeometry'
]
