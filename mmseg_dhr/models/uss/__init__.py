from .cause import CAUSEMLP, CAUSETR
from .color_texture import ColorTextureUSS
from .heads import CAUSEMLPHead, CAUSETRHead, STEGOHead
from .multi_scale import MultiScaleUSS, multi_scale_features
from .stego import STEGO
from .training import STEGOTraining, USSProbes
from .training_cause import CAUSETraining
from .vit import ViTUSS

__all__ = [
    'CAUSEMLP', 'CAUSETR', 'CAUSEMLPHead', 'CAUSETRHead', 'CAUSETraining', 'ColorTextureUSS',
    'MultiScaleUSS', 'STEGO', 'STEGOHead', 'STEGOTraining', 'USSProbes', 'ViTUSS',
    'multi_scale_features'
]
