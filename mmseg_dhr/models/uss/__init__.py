from .color_texture import ColorTextureUSS
from .vit import ViTUSS

__all__ = ['ColorTextureUSS', 'ViTUSS']
