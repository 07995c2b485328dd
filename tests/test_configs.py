"""Every config of configs/dhr can be built, and its parts fit each other."""
from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.visualization import Visualizer
from mmseg.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    PARAM_SCHEDULERS,
    VISUALIZERS,
)
from mmseg.visualization import SegLocalVisualizer
from torch import nn

from mmseg_dhr.utils import load_config

CONFIGS = sorted((Path(__file__).parents[1] / 'configs/dhr').glob('*.py'))
VARIABLES = ('MMSEG_DHR_DATA', 'MMSEG_DHR_USS', 'MMSEG_DHR_BASE')
INITIALISERS = ('kaiming_normal_', 'kaiming_uniform_', 'normal_', 'trunc_normal_', 'uniform_',
                'xavier_normal_', 'xavier_uniform_')


def without_weights(node: Any) -> Any:
    """A copy of a model config that reads no file."""
    if isinstance(node, dict):
        return {key: without_weights(value) for key, value in node.items()
                if key not in ('init_cfg', 'checkpoint')}
    return node


def parts(node: Any, kind: str) -> Iterator[dict]:
    """All dicts in a config whose type is ``kind``."""
    if isinstance(node, dict):
        if node.get('type') == kind:
            yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from parts(value, kind)


def training_values(cfg: Config, kind: str, key: str) -> set:
    """Values of a key in all parts of a type that training or its tools use."""
    used = [cfg.model, cfg.train_dataloader, cfg.pseudo_label_dataset, cfg.custom_hooks]
    return {part.get(key) for part in parts(used, kind)}


@pytest.fixture(scope='module', params=CONFIGS, ids=lambda path: path.stem)
def cfg(request) -> Iterator[Config]:
    instances = DefaultScope._instance_dict.copy()
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        yield load_config(request.param)
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(instances)


@pytest.fixture(scope='module')
def built(cfg) -> nn.Module:
    """The model; its weights are whatever is in memory, for filling the large ones takes long."""
    init_default_scope('mmseg')
    with pytest.MonkeyPatch.context() as patch:
        for name in INITIALISERS:
            patch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
        return MODELS.build(ConfigDict(without_weights(cfg.model.to_dict()))).eval()


@pytest.fixture(autouse=True)
def _scope(monkeypatch, tmp_path):
    init_default_scope('mmseg')
    monkeypatch.chdir(tmp_path)  # visualizers make folders


def test_there_are_configs():
    assert len(CONFIGS) >= 6


@torch.no_grad()
def test_model_and_heads_fit(cfg, built):
    images = torch.zeros(1, 3, 64, 96)
    features = built.extract_feat(images)
    classes = cfg.num_classes
    logits = built.encode_decode(images, [dict(img_shape=(64, 96))])
    assert logits.shape == (1, classes, 64, 96) and built.num_classes == classes
    # Without a background every class has a map.
    background = cfg.get('background_index', 0)
    assert built.cam_head(features).shape[1] == classes - (background is not None)
    tagged = parts([cfg.train_dataloader, cfg.pseudo_label_dataset], 'TaggedDataset')
    assert {dataset.get('background_index', 0) for dataset in tagged} == {background}
    assert built.cam_head.num_classes == classes
    assert training_values(cfg, 'DHRPropagation', 'num_classes') <= {classes}
    assert training_values(cfg, 'LoadPseudoMask', 'num_classes') == {classes}
    if built.uss_encoder is not None:
        assert built.uss_encoder(images)[0].ndim == 4
    images = cfg.train_dataloader.dataset.dataset
    metainfo = images.get('metainfo') or DATASETS.get(images.type).METAINFO
    assert len(metainfo['classes']) == len(metainfo['palette']) == classes


def test_pipelines(cfg, built):
    data = [cfg.train_dataloader.dataset, cfg.pseudo_label_dataset]
    tested = [loader.dataset for loader in (cfg.val_dataloader, cfg.test_dataloader) if loader]
    for pipeline in (*(d.pipeline for d in [*tested, *(d.dataset for d in data)]),
                     cfg.tta_pipeline):
        assert len(Compose(pipeline).transforms) == len(pipeline)
    for dataset in data:
        steps = [step.type for step in dataset.dataset.pipeline]
        assert steps[0] == 'LoadImageFromFile' and steps[-1] == 'PackTaggedInputs'
    assert training_values(cfg, 'RandomCrop', 'crop_size') == {tuple(cfg.crop_size)}
    assert tuple(built.data_preprocessor.size) == tuple(cfg.crop_size)


def test_masks_are_read_where_they_are_written(cfg):
    (hook, ) = parts(cfg.custom_hooks, 'RecursiveLearningHook')
    (load, ) = parts(cfg.train_dataloader, 'LoadPseudoMask')
    if hook.get('base_masks'):
        assert load['mask_dir'] == hook['base_masks']['out_dir']
    cache = training_values(cfg, 'USSFeatureHook', 'out_dir')
    debias = (hook.get('base_masks') or {}).get('debias')
    if debias:
        assert {debias['features']} == cache
    assert training_values(cfg, 'LoadUSSFeatures', 'cache_dir') >= cache
    read = [part['cache_dir'] for part in parts(cfg.train_dataloader, 'LoadUSSFeatures')]
    assert read == list(cache)
    assert cfg.work_dir == f'./work_dirs/{Path(cfg.filename).stem}'
    assert '{work_dir}' not in str(cfg.to_dict())


def test_hooks_loops_and_evaluators(cfg, monkeypatch):
    for kind in (Visualizer, SegLocalVisualizer):  # an instance is there for the whole process
        monkeypatch.setattr(kind, '_instance_dict', OrderedDict())
    VISUALIZERS.build(dict(cfg.visualizer, save_dir='.'))
    for hook in [*cfg.custom_hooks, *cfg.default_hooks.values()]:
        HOOKS.build(copy.deepcopy(hook))
    for loop in filter(None, (cfg.train_cfg, cfg.val_cfg, cfg.test_cfg)):
        assert LOOPS.get(loop.type) is not None
    for loader in filter(None, (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)):
        assert DATA_SAMPLERS.get(loader.sampler.type) is not None
        assert DATASETS.get(loader.dataset.type) is not None
    assert [bool(part) for part in (cfg.val_cfg, cfg.val_dataloader, cfg.val_evaluator)] in (
        [True] * 3, [False] * 3)
    for evaluator in filter(None, (cfg.val_evaluator, cfg.test_evaluator)):
        METRICS.build(evaluator)
    assert MODELS.get(cfg.tta_model.type) is not None
    assert cfg.default_hooks.checkpoint.type == 'CheckpointHook'
    assert cfg.custom_imports.imports == ['mmseg_dhr']


def test_schedule(cfg, built):
    settings = cfg.optim_wrapper
    optim = build_optim_wrapper(built, copy.deepcopy(settings))
    (scheduler, ) = [PARAM_SCHEDULERS.build(dict(s, optimizer=optim)) for s in cfg.param_scheduler]
    assert scheduler.end == cfg.train_cfg.max_iters == cfg.max_iters
    (hook, ) = parts(cfg.custom_hooks, 'RecursiveLearningHook')
    assert hook['warmup_iters'] < cfg.max_iters
    trained = {id(p): group for group in optim.param_groups for p in group['params']
               if p.requires_grad}
    assert {id(p) for p in built.parameters() if p.requires_grad} == set(trained)
    for part, wanted in (settings.get('paramwise_cfg') or {}).get('custom_keys', {}).items():
        named = [p for name, p in built.named_parameters() if part in name]
        assert named or part == 'absolute_pos_embed'  # that this Swin does not have
        for parameter in named:
            rate = trained[id(parameter)]['initial_lr']
            assert rate == pytest.approx(settings.optimizer.lr * wanted.get('lr_mult', 1.))


@pytest.mark.parametrize('cfg', [p for p in CONFIGS if p.stem == 'scenes_segformer_b0'],
                         indirect=True)
def test_the_segformer_is_the_one_of_mmseg(cfg, built, tmp_path):
    (tmp_path / 'stock.py').write_text("_base_ = 'mmseg::_base_/models/segformer_mit-b0.py'\n")
    stock = Config.fromfile(tmp_path / 'stock.py').model.to_dict()
    assert stock['decode_head']['num_classes'] != cfg.num_classes
    stock['decode_head']['num_classes'] = cfg.num_classes
    assert cfg.model.segmentor.to_dict() == stock
    expected = MODELS.build(without_weights(stock)).state_dict()
    assert {name: value.shape for name, value in expected.items()} == {
        name: value.shape for name, value in built.segmentor.state_dict().items()}


@pytest.mark.parametrize('cfg', [p for p in CONFIGS if p.stem == 'voc_r101'], indirect=True)
def test_one_variable_brings_the_masks_of_another_method(cfg, monkeypatch):
    (own, ) = parts(cfg.train_dataloader, 'LoadPseudoMask')
    assert own['mask_dir'] is None and not own['required'] and cfg.warmup_iters == 3300
    monkeypatch.setenv('MMSEG_DHR_BASE', 'data/rsepm')
    given = load_config(cfg.filename)
    for dataset in (given.train_dataloader.dataset, given.pseudo_label_dataset):
        (load, ) = parts(dataset, 'LoadPseudoMask')
        assert load['mask_dir'] == './work_dirs/voc_r101/base_masks' and load['required']
    (hook, ) = parts(given.custom_hooks, 'RecursiveLearningHook')
    assert hook['warmup_iters'] == 0 and hook['base_masks']['seeds'] == 'data/rsepm'
