from .boundary_network import BoundaryNetwork
from .heads import BoundaryAffinityHead, FeatureAffinityHead
from .network import AffinityNetwork

__all__ = ['AffinityNetwork', 'BoundaryAffinityHead', 'BoundaryNetwork', 'FeatureAffinityHead']
