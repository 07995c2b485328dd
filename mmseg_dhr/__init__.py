"""Weakly supervised semantic segmentation with DHR for MMSegmentation.

Importing the package registers its components with the registries of
MMSegmentation; a config needs no more than
``custom_imports = dict(imports=['mmseg_dhr'])``.
"""

from __future__ import annotations

from mmseg_dhr import compat
from mmseg_dhr.version import __version__

# mmseg imports compiled mmcv operators at once, so whatever stands in for
# them has to be in place before the first import of mmseg below.
compat.apply()

from mmseg_dhr import datasets, engine, evaluation, models  # noqa: E402

__all__ = ['__version__', 'compat', 'datasets', 'engine', 'evaluation', 'models']
