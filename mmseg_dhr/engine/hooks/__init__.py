from .neighbour_table_hook import NeighbourTableHook
from .recursive_learning_hook import RecursiveLearningHook
from .uss_feature_hook import USSFeatureHook

__all__ = ['NeighbourTableHook', 'RecursiveLearningHook', 'USSFeatureHook']
