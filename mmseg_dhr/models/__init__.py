from .cam import CAMHead
from .propagation import DenseCRF, DHRPropagation
from .segmentors import CRFTTAModel, DualEncoderSegmentor
from .uss import ColorTextureUSS, ViTUSS
from .weight_init import EfficientNetLiteInit

__all__ = [
    'CAMHead', 'CRFTTAModel', 'ColorTextureUSS', 'DHRPropagation', 'DenseCRF',
    'DualEncoderSegmentor', 'EfficientNetLiteInit', 'ViTUSS'
]
