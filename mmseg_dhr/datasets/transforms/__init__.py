"""Transforms of the data pipeline."""
from .formatting import PackTaggedInputs
from .geometry import TrackGeometry
from .loading import LoadCAM, LoadPseudoMask, LoadUSSFeatures

__all__ = ['LoadCAM', 'LoadPseudoMask', 'LoadUSSFeatures', 'PackTaggedInputs', 'TrackGeometry']
