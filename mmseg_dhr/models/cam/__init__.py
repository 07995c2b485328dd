from .cam_head import CAMHead
from .classifier import CAMClassifier
from .seam import SEAM

__all__ = ['SEAM', 'CAMClassifier', 'CAMHead']
