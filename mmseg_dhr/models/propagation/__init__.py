from .dhr import DHRPropagation, PropagationInputs, PropagationResult
from .refiners import PAMR, DenseCRF

__all__ = ['PAMR', 'DHRPropagation', 'DenseCRF', 'PropagationInputs', 'PropagationResult']
