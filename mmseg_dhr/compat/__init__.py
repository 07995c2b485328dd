"""Lets one code base run on every supported stack of libraries.

:func:`apply` runs when ``mmseg_dhr`` is imported. It changes three things,
each only where the installed libraries make it necessary, and nothing else:

* :mod:`~mmseg_dhr.compat.mmcv_ops` makes ``mmseg`` importable with an mmcv
  that has no compiled operators;
* :mod:`~mmseg_dhr.compat.safe_globals` lets ``torch>=2.6`` read the
  checkpoints of mmengine with the check of pickles switched on;
* :mod:`~mmseg_dhr.compat.onedl` tells mmengine the distribution names of the
  maintained forks of OpenMMLab, and keeps the same check on there.
"""

from __future__ import annotations

from mmseg_dhr.compat.distributions import require_openmmlab
from mmseg_dhr.compat.mmcv_ops import install_ext_stand_in
from mmseg_dhr.compat.onedl import forbid_unchecked_pickles, register_onedl_distributions
from mmseg_dhr.compat.safe_globals import allow_mmengine_checkpoints

__all__ = [
    'allow_mmengine_checkpoints',
    'apply',
    'forbid_unchecked_pickles',
    'install_ext_stand_in',
    'register_onedl_distributions',
    'require_openmmlab',
]


def apply() -> None:
    """Adapts the installed libraries; calling it again changes nothing.

    Raises:
        ImportError: If a library of OpenMMLab is not installed.
    """
    require_openmmlab()
    install_ext_stand_in()
    allow_mmengine_checkpoints()
    register_onedl_distributions()
    forbid_unchecked_pickles()
