"""Adjustments for the maintained forks of OpenMMLab (``onedl-*``).

The forks keep the names of the modules but not of the distributions, by which
mmengine resolves the ``mmseg::`` prefix of a config. And their mmengine reads
a checkpoint that ``torch.load`` refuses a second time without the check.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import torch

__all__ = ['forbid_unchecked_pickles', 'register_onedl_distributions']

# module -> (distribution that mmengine expects, distribution of the fork)
_FORKS = {
    'mmseg': ('mmsegmentation', 'onedl-mmsegmentation'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
}


def register_onedl_distributions() -> dict[str, str]:
    """Points mmengine at the forks where only the forks are installed.

    Returns:
        The modules that now map to a fork, empty with the official libraries.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    forks = {
        module: fork
        for module, (official, fork) in _FORKS.items()
        if _is_installed(fork) and not _is_installed(official)
    }
    MODULE2PACKAGE.update(forks)
    return forks


def forbid_unchecked_pickles() -> bool:
    """Takes away the unchecked second attempt of the fork's mmengine.

    Its ``_safe_torch_load`` falls back to ``weights_only=False``, with which a
    checkpoint can run any code. It also drops from torch's allow-list what
    :func:`~mmseg_dhr.compat.allow_mmengine_checkpoints` put there. Plain
    ``torch.load``, as in the official mmengine, does neither.

    Returns:
        Whether the installed mmengine has that function.
    """
    from mmengine.runner import checkpoint

    if not hasattr(checkpoint, '_safe_torch_load'):
        return False
    checkpoint._safe_torch_load = _torch_load
    return True


def _torch_load(file: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
    return torch.load(file, map_location=map_location, weights_only=weights_only)


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
