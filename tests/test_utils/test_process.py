from __future__ import annotations

import ast
import ctypes
import platform
import subprocess
import sys

import pytest

from mmseg_dhr.utils import process

TOOLS = ['debias_masks', 'extract_uss_features', 'make_affinity_labels', 'make_affinity_masks',
         'make_base_masks', 'make_boundaries', 'make_cams', 'make_pseudo_labels', 'test', 'train',
         *(f'analysis_tools/{name}' for name in (
             'ablation', 'benchmark', 'class_correlation', 'dhr_report', 'label_probe',
             'point_heatmaps', 'training_time', 'uss_choice'))]
# Page faults of blocks that are as large as an activation (64 MiB), one after the other.
FAULTS = """
import resource, runpy, sys
import torch
if sys.argv[1] == 'keep':
    assert runpy.run_path(sys.argv[2])['keep_freed_memory']()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    torch.empty(2**24).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='not the C library of GNU')
def test_freed_memory_is_used_again() -> None:
    faults = {}
    for how in ('keep', 'leave'):
        done = subprocess.run([sys.executable, '-c', FAULTS, how, process.__file__],
                              capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    # glibc before 2.38 takes a few new blocks before it uses an aligned one again.
    assert faults['keep'] < .5 * faults['leave']


def test_other_c_library(monkeypatch) -> None:
    monkeypatch.setattr(ctypes, 'CDLL', lambda _: object())
    assert not process.keep_freed_memory()
    monkeypatch.setattr(sys, 'platform', 'win32')
    monkeypatch.setattr(ctypes, 'CDLL', None)  # there it takes no None
    assert not process.keep_freed_memory()


@pytest.mark.parametrize('tool', TOOLS)
def test_commands_let_idle_threads_sleep(repo_root, tool) -> None:
    """The variable is set before anything is imported that could import torch."""
    body = ast.parse((repo_root / f'tools/{tool}.py').read_text()).body
    first = next(i for i, node in enumerate(body) if 'OMP_WAIT_POLICY' in ast.unparse(node))
    assert ast.unparse(body[first]) == "os.environ.setdefault('OMP_WAIT_POLICY', 'passive')"
    imported = {name.name for node in body[:first] if isinstance(node, ast.Import)
                for name in node.names}
    imported |= {node.module for node in body[:first] if isinstance(node, ast.ImportFrom)}
    assert {name.split('.')[0] for name in imported} <= sys.stdlib_module_names
