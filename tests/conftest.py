"""What all tests share: the package itself, thread counts, real data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

# Before any test module imports mmseg: the package makes it importable where
# mmcv has no compiled operators.
import mmseg_dhr  # noqa: F401

REPO_ROOT = Path(__file__).resolve().parents[1]

# The tensors of the tests are tiny: threads cost more than they give, and one
# thread makes the order of floating-point sums repeatable.
torch.set_num_threads(1)


@pytest.fixture(scope='session')
def repo_root() -> Path:
    """Folder that holds ``setup.py``, ``configs`` and ``tools``."""
    return REPO_ROOT


@pytest.fixture(scope='session')
def shared_dir() -> Path:
    """Folder with real data and weights next to the repository.

    Tests that need it are skipped where it does not exist.
    """
    path = REPO_ROOT.parent / 'shared'
    if not path.is_dir():
        pytest.skip('real data needed: no folder "shared" next to the repository')
    return path


@pytest.fixture(scope='session')
def subprocess_env() -> dict[str, str]:
    """Environment in which a Python subprocess imports this repository."""
    paths = [str(REPO_ROOT), os.environ.get('PYTHONPATH', '')]
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}


@pytest.fixture(autouse=True)
def _default_scope() -> Iterator[None]:
    """Keeps one test's scope from deciding what the next one builds."""
    instances = DefaultScope._instance_dict.copy()
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(instances)


@pytest.fixture
def mmseg_modules(_default_scope: None) -> None:
    """Registers all components of mmseg and makes ``mmseg`` the scope."""
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=True)
