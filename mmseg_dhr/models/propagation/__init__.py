from .dhr import DHRPropagation, PropagationInputs, PropagationResult
from .refiners import DenseCRF

__all__ = ['DHRPropagation', 'DenseCRF', 'PropagationInputs', 'PropagationResult']
