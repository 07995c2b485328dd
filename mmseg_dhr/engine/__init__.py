"""Training: the loop and the hooks."""
from .hooks import RecursiveLearningHook, USSFeatureHook
from .loops import ResumableIterLoop

__all__ = ['RecursiveLearningHook', 'ResumableIterLoop', 'USSFeatureHook']
