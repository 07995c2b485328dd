"""Stand-in for the compiled operators of mmcv.

``mmseg`` imports ``mmcv.ops``, and that loads the C++ extension
``mmcv._ext``. ``mmcv-lite``, and ``mmcv`` built without operators, ship the
Python half of ``mmcv.ops`` alone, so the import fails although hardly any
model calls a compiled operator. With the stand-in the import works, and only
the call of an operator that really is missing fails.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

__all__ = ['MissingExtension', 'install_ext_stand_in']

_EXT_NAME = 'mmcv._ext'


class MissingExtension(ModuleType):
    """Module in which every operator exists and none can be called."""

    def __init__(self) -> None:
        super().__init__(
            _EXT_NAME, 'Stand-in: the installed mmcv has no compiled operators.'
        )
        # mmcv.utils.check_ops_exist() and mmengine's Runner look for a loader
        # to learn whether there are operators; there are none.
        self.__spec__ = ModuleSpec(_EXT_NAME, loader=None)

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name.startswith('__'):
            raise AttributeError(f'module {_EXT_NAME!r} has no attribute {name!r}')
        if name in ('get_compiler_version', 'get_compiling_cuda_version'):
            # Asked for by mmcv's report of the environment.
            return _not_compiled
        return _missing_operator(name)


def install_ext_stand_in() -> bool:
    """Puts a stand-in for ``mmcv._ext`` in place if mmcv has none.

    Deformable attention then takes its PyTorch path on a GPU too, as mmcv
    would otherwise choose the missing CUDA kernel.

    Returns:
        Whether the stand-in is in use; False with compiled operators.
    """
    if _EXT_NAME in sys.modules:
        return isinstance(sys.modules[_EXT_NAME], MissingExtension)
    if importlib.util.find_spec(_EXT_NAME) is not None:
        return False
    sys.modules[_EXT_NAME] = MissingExtension()
    from mmcv.ops import multi_scale_deform_attn

    multi_scale_deform_attn.IS_CUDA_AVAILABLE = False
    return True


def _missing_operator(name: str) -> Callable[..., NoReturn]:
    """Makes a function that says which operator is missing when called."""

    def missing(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f'The operator {name!r} of mmcv is compiled code, but the installed mmcv '
            'has no compiled operators. Install an mmcv that has them, '
            "`mim install 'mmcv>=2.0.0,<2.2.0'`, in place of mmcv-lite."
        )

    missing.__name__ = name
    return missing


def _not_compiled() -> str:
    return 'not available (mmcv without compiled operators)'
