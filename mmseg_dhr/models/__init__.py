from .affinity import (
    AffinityNetwork,
    BoundaryAffinityHead,
    BoundaryNetwork,
    FeatureAffinityHead,
)
from .backbones import WideResNet38, WideResNet38Init
from .cam import SEAM, CAMClassifier, CAMHead
from .decode_heads import DeepLabV2Head
from .propagation import PAMR, DenseCRF, DHRPropagation
from .segmentors import CRFPostProcess, CRFTTAModel, DualEncoderSegmentor
from .uss import CAUSEMLP, CAUSETR, STEGO, ColorTextureUSS, MultiScaleUSS, ViTUSS
from .weight_init import EfficientNetLiteInit

__all__ = [
    'CAUSEMLP', 'CAUSETR', 'PAMR', 'SEAM', 'STEGO', 'AffinityNetwork', 'BoundaryAffinityHead',
    'BoundaryNetwork', 'CAMClassifier', 'CAMHead', 'CRFPostProcess', 'CRFTTAModel',
    'ColorTextureUSS', 'DHRPropagation', 'DeepLabV2Head', 'DenseCRF', 'DualEncoderSegmentor',
    'EfficientNetLiteInit', 'FeatureAffinityHead', 'MultiScaleUSS', 'ViTUSS', 'WideResNet38',
    'WideResNet38Init'
]
