"""Tests of the check for the libraries of OpenMMLab."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec

import pytest

from mmseg_dhr.compat import require_openmmlab


def _finder_without(*missing: str) -> Callable[[str], ModuleSpec | None]:
    def find_spec(name: str) -> ModuleSpec | None:
        return None if name in missing else ModuleSpec(name, loader=None)

    return find_spec


def test_accepts_the_installed_libraries() -> None:
    require_openmmlab()


def test_error_names_exactly_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', _finder_without('mmcv', 'mmseg'))
    with pytest.raises(ImportError, match=r'found no mmcv, mmseg\.') as error:
        require_openmmlab()
    assert 'mmseg_dhr[official]' in str(error.value)
    assert 'mmseg_dhr[onedl]' in str(error.value)
