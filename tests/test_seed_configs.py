"""The configs of the networks that make CAMs can be built, and their parts fit each other."""
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmseg.registry import DATA_SAMPLERS, DATASETS, LOOPS, MODELS, PARAM_SCHEDULERS
from mmseg.structures import SegDataSample

from mmseg_dhr.utils import load_config

CONFIGS = sorted(path for path in (Path(__file__).parents[1] / 'configs/seeds').glob('*.py')
                 if path.stem.startswith(('cam_', 'seam_')))


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def cfg(request, monkeypatch) -> Config:
    monkeypatch.delenv('MMSEG_DHR_DATA', raising=False)
    config = load_config(request.param)
    init_default_scope('mmseg')
    return config


def build(cfg: Config) -> Any:
    """The model with random weights."""
    model = copy.deepcopy(cfg.model)
    assert model.backbone.pop('init_cfg')['type'] != 'PretrainedInit'
    return MODELS.build(model)


def test_there_are_configs() -> None:
    assert [path.stem for path in CONFIGS] == ['cam_voc', 'cam_vocmini', 'seam_voc',
                                               'seam_vocmini']


def test_model_trains_and_makes_maps(cfg) -> None:
    model = build(cfg)
    images = torch.randn(2, 3, 32, 48)
    samples = [SegDataSample(metainfo=dict(image_labels=tags, img_shape=(32, 40)))
               for tags in ((1, 4), (20, ))]
    losses = model.train()(images, samples, mode='loss')
    named = {name for name in losses if 'loss' in name}
    seam = cfg.model.type == 'SEAM'
    assert named == ({'loss_cls', 'loss_er', 'loss_ecr'} if seam else {'loss_cls'})
    assert all(value.isfinite() for value in losses.values())
    with torch.no_grad():
        assert model.eval().cam_maps(images[:1]).shape[:2] == (1, 20)
    assert model.cam_head.num_classes == cfg.num_classes
    assert tuple(model.data_preprocessor.size) == tuple(cfg.crop_size)

    wrapper = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))
    rates = {id(p): group['lr'] for group in wrapper.param_groups for p in group['params']}
    base = cfg.optim_wrapper.optimizer.lr
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = 1 if name.startswith('backbone') else 10
            assert rates[id(parameter)] == pytest.approx(factor * base)
    (scheduler, ) = [PARAM_SCHEDULERS.build(dict(s, optimizer=wrapper))
                     for s in cfg.param_scheduler]
    assert scheduler.end == cfg.train_cfg.max_iters == cfg.max_iters
    assert LOOPS.get(cfg.train_cfg.type) is not None


def test_data(cfg) -> None:
    for data in (cfg.train_dataloader.dataset, cfg.pseudo_label_dataset):
        assert DATASETS.get(data.type) is not None
        pipeline = data.dataset.pipeline
        assert len(Compose(pipeline).transforms) == len(pipeline)
        steps = [step['type'] for step in pipeline]
        assert steps[0] == 'LoadImageFromFile' and steps[-1] == 'PackTaggedInputs'
        assert not {'LoadPseudoMask', 'LoadUSSFeatures', 'LoadAnnotations'} & set(steps)
    crops = [step['crop_size'] for step in cfg.train_dataloader.dataset.dataset.pipeline
             if step['type'] == 'RandomCrop']
    assert crops == [cfg.crop_size]
    assert DATA_SAMPLERS.get(cfg.train_dataloader.sampler.type) is not None
    assert not cfg.get('val_dataloader') and not cfg.get('val_cfg')


def test_epochs_of_voc() -> None:
    """Lengths of the schedules are those of 10,582 images."""
    for name, epochs in (('cam_voc', 5), ('seam_voc', 8)):
        (path, ) = [path for path in CONFIGS if path.stem == name]
        cfg = load_config(path)
        assert cfg.max_iters == pytest.approx(
            epochs * 10582 / cfg.train_dataloader.batch_size, abs=2)
