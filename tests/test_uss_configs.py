"""Every config of configs/uss can be built, and its parts fit each other."""
from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, HOOKS, LOOPS, METRICS, MODELS

from mmseg_dhr.utils import load_config

CONFIGS = sorted((Path(__file__).parents[1] / 'configs/uss').glob('*.py'))


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def cfg(request, monkeypatch):
    for name in ('MMSEG_DHR_DATA', 'MMSEG_DHR_USS'):
        monkeypatch.delenv(name, raising=False)
    config = load_config(request.param)
    init_default_scope('mmseg')
    return config


def test_builds_and_fits(cfg):
    data = cfg.train_dataloader.dataset
    cfg.model.encoder.pop('checkpoint')
    model = MODELS.build(cfg.model)
    labels = dict(labels=torch.zeros(2, data.grid, data.grid, dtype=torch.long)) \
        if data.masks else {}
    features = torch.randn(2, model.encoder.out_channels, data.grid, data.grid)
    losses = model.train()(features, mode='loss', positives=features, **labels)
    assert all(torch.isfinite(value) for value in losses.values())
    assert ('neighbours_dir' in data) == (cfg.model.type == 'STEGOTraining')
    assert data.masks == (cfg.model.num_classes is not None)
    assert getattr(model, 'grid', data.grid) == data.grid
    wrapper = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))
    rates = {id(p): group['lr'] for group in wrapper.param_groups for p in group['params']}
    assert rates[id(model.cluster_probe.centres)] == pytest.approx(5e-3)
    if hasattr(model, 'head'):
        assert rates[id(next(model.head.parameters()))] == pytest.approx(5e-4)


def test_the_rest(cfg):
    assert DATASETS.get(cfg.train_dataloader.dataset.type) is not None
    assert LOOPS.get(cfg.train_cfg.type) is not None
    assert cfg.train_cfg.max_iters == cfg.max_iters == cfg.train_cfg.val_interval
    for hook in cfg.custom_hooks:
        HOOKS.build(copy.deepcopy(hook))
    given = [bool(cfg.get(part)) for part in ('val_cfg', 'val_dataloader', 'val_evaluator')]
    assert given in ([True] * 3, [False] * 3)
    if all(given):
        pipeline = cfg.val_dataloader.dataset.pipeline
        assert len(Compose(pipeline).transforms) == len(pipeline)
        classes = len(DATASETS.get(cfg.val_dataloader.dataset.type).METAINFO['classes'])
        assert classes == cfg.model.num_classes
        for evaluator in cfg.val_evaluator:
            assert METRICS.build(evaluator).num_clusters == classes
    text = cfg.pretty_text
    assert '{work_dir}' not in text and f'./work_dirs/{Path(cfg.filename).stem}/uss' in text
