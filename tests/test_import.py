"""Importing the package changes no setting of the process that other code may rely on."""
from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Settings of what the package builds on are not ours: that is imported first.
PROGRAM = """
import contextlib, importlib
import json, logging, multiprocessing, os, random, signal, sys, warnings
import cv2, matplotlib.pyplot, mmcv, mmengine.runner, mmengine.visualization, numpy, torch
import PIL.Image, PIL.ImageFile
for name in ('requests', 'scipy.optimize', 'scipy.special', 'timm', 'torchvision', 'tqdm.auto'):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)

def snapshot():
    backends = torch.backends
    os.umask(umask := os.umask(0))
    return {
        'torch threads': torch.get_num_threads(),
        'torch threads between operators': torch.get_num_interop_threads(),
        'torch dtype': str(torch.get_default_dtype()),
        'torch device': str(torch.empty(0).device),
        'torch gradient': torch.is_grad_enabled(),
        'torch determinism': torch.are_deterministic_algorithms_enabled(),
        'torch precision': torch.get_float32_matmul_precision(),
        'torch printing': str(torch.tensor([1 / 3])),
        'torch random': torch.get_rng_state().tolist(),
        'torch backends': [
            backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic,
            backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32],
        'torch sharing': torch.multiprocessing.get_sharing_strategy(),
        'start method': multiprocessing.get_start_method(allow_none=True),
        'cv2': [cv2.getNumThreads(), cv2.ocl.useOpenCL(), cv2.useOptimized()],
        'numpy printing': str(numpy.get_printoptions()),
        'numpy errors': numpy.geterr(),
        'numpy random': str(numpy.random.get_state()),
        'random': str(random.getstate()),
        'PIL': [PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES],
        'matplotlib': {k: str(v) for k, v in dict.items(matplotlib.rcParams)},
        'environment': dict(os.environ),
        'warnings': [str(f) for f in warnings.filters],
        'logging': [logging.root.level, str(logging.root.handlers), logging.root.manager.disable],
        'hooks': [str(h) for h in (sys.excepthook, warnings.showwarning, signal.getsignal(2))],
        'umask': umask,
        'folder': os.getcwd(),
        'path': list(sys.path),
    }

before = snapshot()
import mmseg_dhr, mmseg_dhr.apis, mmseg_dhr.utils.cli, mmseg_dhr.utils.process
import mmseg_dhr.visualization.plots
after = snapshot()
CHANGES
print(json.dumps([before, after, snapshot()], default=str))
"""

# What must be noticed: name in the snapshot, statement.
CHANGES = {
    'torch threads': 'torch.set_num_threads(torch.get_num_threads() + 1)',
    'torch threads between operators':
        'torch.set_num_interop_threads(torch.get_num_interop_threads() + 1)',
    'torch dtype': 'torch.set_default_dtype(torch.float64)',
    'torch device': 'torch.set_default_device("meta")',
    'torch gradient': 'torch.set_grad_enabled(False)',
    'torch determinism': 'torch.use_deterministic_algorithms(True)',
    'torch precision': 'torch.set_float32_matmul_precision("medium")',
    'torch printing': 'torch.set_printoptions(precision=2)',
    'torch random': 'torch.manual_seed(7)',
    'torch backends': 'torch.backends.cudnn.benchmark = True',
    'torch sharing': 'torch.multiprocessing.set_sharing_strategy("file_system")',
    'start method': 'multiprocessing.set_start_method("spawn")',
    'cv2': 'cv2.setNumThreads(cv2.getNumThreads() + 1)',
    'numpy printing': 'numpy.set_printoptions(precision=2)',
    'numpy errors': 'numpy.seterr(all="raise")',
    'numpy random': 'numpy.random.seed(7)',
    'random': 'random.seed(7)',
    'PIL': 'PIL.ImageFile.LOAD_TRUNCATED_IMAGES = True',
    'matplotlib': 'matplotlib.use("svg")',
    'environment': 'os.environ["OMP_WAIT_POLICY"] = "other"',
    'warnings': 'warnings.simplefilter("ignore")',
    'logging': 'logging.basicConfig(level=7)',
    'hooks': 'sys.excepthook = print',
    'umask': 'os.umask(0o11)',
    'folder': 'os.chdir("/")',
    'path': 'sys.path.append("x")',
}


@pytest.fixture(scope='module')
def snapshots(subprocess_env, tmp_path_factory) -> list[dict]:
    """Settings before the import, after it, and after :data:`CHANGES`."""
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM.replace('CHANGES', '\n'.join(CHANGES.values()))],
        env=subprocess_env, cwd=tmp_path_factory.mktemp('import'), capture_output=True, text=True,
        check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().split('\n')[-1])


def changed(old: dict, new: dict) -> dict[str, tuple]:
    return {name: (old[name], new[name]) for name in old if old[name] != new[name]}


def test_nothing_is_changed(snapshots) -> None:
    assert changed(*snapshots[:2]) == {}


def test_a_change_would_be_noticed(snapshots) -> None:
    assert set(CHANGES) == set(snapshots[0])
    assert set(CHANGES) - set(changed(*snapshots[1:])) == set()
