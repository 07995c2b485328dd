from .cam import CAMHead
from .propagation import PAMR, DenseCRF, DHRPropagation
from .segmentors import CRFTTAModel, DualEncoderSegmentor
from .uss import CAUSEMLP, CAUSETR, STEGO, ColorTextureUSS, MultiScaleUSS, ViTUSS
from .weight_init import EfficientNetLiteInit

__all__ = [
    'CAUSEMLP', 'CAUSETR', 'PAMR', 'STEGO', 'CAMHead', 'CRFTTAModel', 'ColorTextureUSS',
    'DHRPropagation', 'DenseCRF', 'DualEncoderSegmentor', 'EfficientNetLiteInit', 'MultiScaleUSS',
    'ViTUSS'
]
