from .mxnet_params import read_mxnet_params
from .wide_resnet38 import WideResNet38, WideResNet38Init, mxnet_to_wide_resnet38

__all__ = ['WideResNet38', 'WideResNet38Init', 'mxnet_to_wide_resnet38', 'read_mxnet_params']
