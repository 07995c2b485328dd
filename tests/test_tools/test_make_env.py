"""Tests of the script that makes the environment, short of installing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='a bash script')


def _make_env(repo_root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ['bash', 'tools/dev/make_env.sh'],
        cwd=repo_root,
        env={**os.environ, 'PYTHON': sys.executable, 'STACK': 'official', **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_unknown_stack(repo_root: Path, tmp_path: Path) -> None:
    done = _make_env(repo_root, VENV=str(tmp_path / 'venv'), STACK='oficial')
    assert done.returncode == 1
    assert "STACK must be official or onedl, but is 'oficial'" in done.stderr
    assert not (tmp_path / 'venv').exists()


def test_unusable_python(repo_root: Path, tmp_path: Path) -> None:
    done = _make_env(repo_root, VENV=str(tmp_path / 'venv'), PYTHON='no-such-python')
    assert done.returncode == 1
    assert "'no-such-python' is no Python >= 3.10" in done.stderr


def test_what_an_environment_was_made_with_stays(repo_root: Path, tmp_path: Path) -> None:
    """A plain `make test` must not replace the environment of `make env PYTHON=... STACK=...`."""
    (tmp_path / 'pyvenv.cfg').touch()
    (tmp_path / '.mmseg_dhr_choices').write_text('PYTHON=/old/python\nSTACK=odd\nTORCH=torch\n')
    for given, expected in (({'STACK': ''}, "but is 'odd'"),
                            ({'PYTHON': ''}, "'/old/python' is no Python >= 3.10"),
                            ({}, "no C++ compiler ('no-such-compiler')")):
        done = _make_env(repo_root, VENV=str(tmp_path), CXX='no-such-compiler', **given)
        assert expected in done.stderr


def test_missing_compiler(repo_root: Path, tmp_path: Path) -> None:
    done = _make_env(repo_root, VENV=str(tmp_path / 'venv'), CXX='no-such-compiler')
    assert done.returncode == 1
    assert "no C++ compiler ('no-such-compiler')" in done.stderr
    assert not (tmp_path / 'venv').exists()


def test_folder_that_is_no_environment_is_left_alone(repo_root: Path, tmp_path: Path) -> None:
    (tmp_path / 'thesis.tex').write_text('precious')
    done = _make_env(repo_root, VENV=str(tmp_path))
    assert done.returncode == 1
    assert 'is no virtual environment' in done.stderr
    assert (tmp_path / 'thesis.tex').read_text() == 'precious'
