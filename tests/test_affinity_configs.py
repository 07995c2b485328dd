"""The configs of the affinity networks can be built, and their parts fit each other."""
from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope, init_default_scope
from mmseg.registry import DATA_SAMPLERS, DATASETS, HOOKS, LOOPS, MODELS, PARAM_SCHEDULERS
from torch import nn

from mmseg_dhr.apis import AgreementSettings, WalkSettings
from mmseg_dhr.apis.affinity_masks import settings_from
from mmseg_dhr.ops import DenseCRFParams
from mmseg_dhr.utils import load_config

CONFIGS = sorted(path for path in (Path(__file__).parents[1] / 'configs/seeds').glob('*.py')
                 if path.stem.startswith(('psa_', 'irnet_')))


def without_weights(node: Any) -> Any:
    """A copy of a model config that reads no file and loads nothing down."""
    if isinstance(node, dict):
        kept = {key: without_weights(value) for key, value in node.items() if key != 'init_cfg'}
        return {**kept, 'pretrained': False} if 'pretrained' in kept else kept
    return node


@pytest.fixture(scope='module', params=CONFIGS, ids=lambda path: path.stem)
def cfg(request) -> Iterator[Config]:
    instances = DefaultScope._instance_dict.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv('MMSEG_DHR_DATA', raising=False)
        yield load_config(request.param)
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(instances)


@pytest.fixture(scope='module')
def built(cfg) -> nn.Module:
    """The network with random weights."""
    init_default_scope('mmseg')
    return MODELS.build(without_weights(cfg.model.to_dict())).eval()


@pytest.fixture(autouse=True)
def _scope() -> None:
    init_default_scope('mmseg')


def test_there_are_configs() -> None:
    assert [path.stem for path in CONFIGS] == ['irnet_voc', 'irnet_vocmini', 'psa_voc',
                                               'psa_vocmini']


@torch.no_grad()
def test_grid(cfg: Config, built: nn.Module) -> None:
    values, sources = built.affinity(torch.zeros(1, 3, 64, 96))
    stride = 8 if 'psa' in cfg.filename else 4
    assert values.shape == (1, 34, 64 // stride, 96 // stride)
    assert sources.shape == (1, 1, *values.shape[-2:])


def test_settings(cfg: Config) -> None:
    agreement = settings_from(cfg, 'agreement', AgreementSettings)
    walk = settings_from(cfg, 'walk', WalkSettings)
    assert DenseCRFParams()._replace(**agreement.crf).iterations == 10
    assert len(agreement.masks()) == 2
    assert walk.radius == 5 and walk.crf is None
    if 'psa' in cfg.filename:
        assert agreement.background_powers == (4, 32) and walk.beta == 8
    else:
        assert agreement.background_constants == (0.3, 0.05) and walk.beta == 10


@pytest.mark.parametrize('name, expected', [
    ('psa_voc', WalkSettings(8, 256, 5, background_power=16)),
    ('irnet_voc', WalkSettings(10, 256, 5, background_power=None, background_constant=0.25))])
def test_the_papers_walk(name: str, expected: WalkSettings) -> None:
    cfg = load_config(CONFIGS[0].parent / f'{name}.py')
    assert settings_from(cfg, 'walk', WalkSettings) == expected


def test_data(cfg: Config, built: nn.Module) -> None:
    train, whole = cfg.train_dataloader.dataset, cfg.pseudo_label_dataset
    for dataset in (train, whole):
        pipeline = dataset.dataset.pipeline
        assert len(Compose(pipeline).transforms) == len(pipeline)
        assert DATASETS.get(dataset.type) and DATASETS.get(dataset.dataset.type)
    load, = (step for step in train.dataset.pipeline if step.type == 'LoadPseudoMask')
    assert load.mask_dir == f'./work_dirs/{Path(cfg.filename).stem}/labels' and load.required
    crop, = (step for step in train.dataset.pipeline if step.type == 'RandomCrop')
    assert tuple(crop.crop_size) == tuple(built.data_preprocessor.size)
    assert train.seed == 0
    assert DATA_SAMPLERS.get(cfg.train_dataloader.sampler.type)


def test_schedule(cfg: Config, built: nn.Module) -> None:
    optim = build_optim_wrapper(built, copy.deepcopy(cfg.optim_wrapper))
    scheduler, = [PARAM_SCHEDULERS.build(dict(s, optimizer=optim)) for s in cfg.param_scheduler]
    assert scheduler.end == cfg.train_cfg.max_iters == cfg.max_iters
    assert LOOPS.get(cfg.train_cfg.type)
    for hook in cfg.default_hooks.values():
        assert HOOKS.get(hook.type)
    assert not any(cfg.get(f'{split}_{part}') for split in ('val', 'test')
                   for part in ('dataloader', 'evaluator', 'cfg'))
    rates = {id(p): group['initial_lr'] for group in optim.param_groups for p in group['params']}
    head = [rates[id(p)] for p in built.affinity_head.parameters()]
    factor = 10 if cfg.optim_wrapper.get('paramwise_cfg') else 1
    assert head == pytest.approx([cfg.optim_wrapper.optimizer.lr * factor] * len(head))
    assert any(p.requires_grad for p in built.backbone.parameters()) != cfg.model.get(
        'freeze_backbone', False)
