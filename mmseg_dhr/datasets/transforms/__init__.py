"""Transforms of the data pipeline."""
from .formatting import PackTaggedInputs
from .geometry import TrackGeometry
from .loading import LoadCAM, LoadPseudoMask, LoadUSSFeatures
from .pseudo_label import DHRPseudoLabel

__all__ = ['DHRPseudoLabel', 'LoadCAM', 'LoadPseudoMask', 'LoadUSSFeatures', 'PackTaggedInputs',
           'TrackGeometry']
