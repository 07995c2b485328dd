from .crf_post_process import CRFPostProcess
from .dual_encoder import DualEncoderSegmentor
from .tta import CRFTTAModel

__all__ = ['CRFPostProcess', 'CRFTTAModel', 'DualEncoderSegmentor']
