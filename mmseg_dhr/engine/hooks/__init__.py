from .recursive_learning_hook import RecursiveLearningHook
from .uss_feature_hook import USSFeatureHook

__all__ = ['RecursiveLearningHook', 'USSFeatureHook']
