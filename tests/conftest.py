"""What all tests share: the package itself, thread counts, real data."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from yapf.yapflib import yapf_api

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


@pytest.fixture(autouse=True)
def _configs_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """No yapf for configs that are written: it takes two thirds of a short training."""
    module = sys.modules[Config.__module__]
    # MMEngine imports it with the module, the onedl fork when it is called.
    owner = module if hasattr(module, 'FormatCode') else yapf_api
    monkeypatch.setattr(owner, 'FormatCode', lambda text, **options: (text, True))


@pytest.fixture(autouse=True)
def _no_data_root_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--data-root` sets this variable for the whole process."""
    monkeypatch.setenv('MMSEG_DHR_DATA', '')  # remembers the value of before
    monkeypatch.delenv('MMSEG_DHR_DATA')


@pytest.fixture
def mmseg_modules(_default_scope: None) -> None:
    """Registers all components of mmseg and makes ``mmseg`` the scope."""
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=True)


@pytest.fixture(scope='session')
def scenes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of six training and two validation scenes of 64 px; not to be written to."""
    from mmseg_dhr.datasets.scenes import SceneParameters, write_scenes

    return write_scenes(tmp_path_factory.mktemp('scenes') / 'data', SceneParameters(6, 2, 64),
                        progress=False)


@pytest.fixture
def tagged_scenes(scenes_root: Path) -> Callable[..., dict]:
    """Config of the tagged training scenes with a pipeline of one's choice."""

    def config(pipeline: Sequence[dict] = (), **options: Any) -> dict:
        scenes = dict(type='ScenesDataset', data_root=str(scenes_root), num_train=6, num_val=2,
                      size=64, pipeline=list(pipeline))
        return dict(type='TaggedDataset', dataset=scenes,
                    labels=dict(type='json', path='image_labels.json'), **options)

    return config


@pytest.fixture
def tiny_model() -> Callable[..., ConfigDict]:
    """Config of a DualEncoderSegmentor with few channels; arguments replace its settings."""

    def config(num_classes: int = 9, size: tuple[int, int] = (64, 64), norm: str = 'BN',
               head: dict | None = None, **options: Any) -> ConfigDict:
        norm_cfg = dict(type=norm, requires_grad=True)
        fcn = dict(type='FCNHead', channels=8, num_convs=1, num_classes=num_classes,
                   norm_cfg=norm_cfg, dropout_ratio=0, align_corners=False)
        segmentor = dict(
            type='EncoderDecoder',
            data_preprocessor=dict(
                type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53],
                std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_val=0, seg_pad_val=255,
                size=size),
            backbone=dict(
                type='ResNetV1c', depth=18, base_channels=8, stem_channels=8,
                strides=(1, 2, 1, 1), dilations=(1, 1, 1, 2), norm_cfg=norm_cfg),
            decode_head=dict(fcn, in_channels=64, in_index=3, **(head or {})),
            train_cfg=dict(), test_cfg=dict(mode='whole'))
        defaults = dict(
            type='DualEncoderSegmentor', segmentor=segmentor,
            cam_head=dict(type='CAMHead', in_channels=64, num_classes=num_classes),
            uss_encoder=dict(type='ColorTextureUSS', frequencies=8),
            propagation=dict(type='DHRPropagation', num_classes=num_classes, stride=2))
        return ConfigDict({**defaults, **options})

    return config
