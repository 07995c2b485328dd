"""Checks that one family of the OpenMMLab libraries is installed."""

from __future__ import annotations

import importlib.util

__all__ = ['require_openmmlab']

_MODULES = ('mmengine', 'mmcv', 'mmseg')


def require_openmmlab() -> None:
    """Raises one clear error if a library of OpenMMLab is missing.

    ``pip`` cannot do this: two families of distributions serve the same
    modules, hence neither is a hard requirement of this package.

    Raises:
        ImportError: If ``mmengine``, ``mmcv`` or ``mmseg`` is not installed.
    """
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f'mmseg_dhr needs {", ".join(_MODULES)}, but found no {", ".join(missing)}. '
            "Install one family of libraries: pip install 'mmseg_dhr[official]' or "
            "pip install 'mmseg_dhr[onedl]'."
        )
