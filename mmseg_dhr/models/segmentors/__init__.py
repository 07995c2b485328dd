from .dual_encoder import DualEncoderSegmentor
from .tta import CRFTTAModel

__all__ = ['CRFTTAModel', 'DualEncoderSegmentor']
