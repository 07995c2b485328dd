"""Tests of what importing the package does to the process."""

from __future__ import annotations

import subprocess
import sys

from mmengine.config.utils import MODULE2PACKAGE

from mmseg_dhr import compat

_SETTINGS_ARE_KEPT = """
import logging, os, sys
import cv2, numpy, torch

def settings():
    return {
        'threads': torch.get_num_threads(),
        'interop threads': torch.get_num_interop_threads(),
        'dtype': torch.get_default_dtype(),
        'grad': torch.is_grad_enabled(),
        'deterministic': torch.are_deterministic_algorithms_enabled(),
        'tf32': torch.backends.cuda.matmul.allow_tf32,
        'benchmark': torch.backends.cudnn.benchmark,
        'sharing': torch.multiprocessing.get_sharing_strategy(),
        'opencv threads': cv2.getNumThreads(),
        'environment': {k: v for k, v in os.environ.items() if not k.startswith('KMP_')},
        'numpy random': repr(numpy.random.get_state()),
        'torch random': torch.get_rng_state().tolist(),
        'numpy print': numpy.get_printoptions(),
        'recursion': sys.getrecursionlimit(),
        'log level': logging.getLogger().level,
        'log handlers': list(logging.getLogger().handlers),
    }

before = settings()
import mmseg_dhr
after = settings()
changed = [key for key in before if before[key] != after[key]]
assert not changed, changed

from mmengine.registry import DefaultScope
assert DefaultScope.get_current_instance() is None
"""


def test_import_changes_no_global_settings(subprocess_env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', _SETTINGS_ARE_KEPT],
        env=subprocess_env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_second_apply_changes_nothing() -> None:
    def state() -> tuple[object, ...]:
        import torch
        from mmengine.runner import checkpoint

        return (
            sys.modules.get('mmcv._ext'),
            # Since torch 2.4.
            set(getattr(torch.serialization, 'get_safe_globals', list)()),
            dict(MODULE2PACKAGE),
            getattr(checkpoint, '_safe_torch_load', None),
        )

    compat.apply()
    once = state()
    compat.apply()
    assert state() == once
