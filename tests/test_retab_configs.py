"""The configs of RETAB: every fold names its classes everywhere, every network can be built."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.datasets import PascalVOCDataset
from mmseg.registry import DATASETS, MODELS

from mmseg_dhr.datasets import ScenesDataset, novel_labels
from mmseg_dhr.utils import load_config
from tests.test_affinity_configs import without_weights

CONFIGS = sorted((Path(__file__).parents[1] / 'configs/retab').glob('*.py'))
STEPS = ('boundary', 'affinity', 'segmentor')
# 8 epochs of the base samples of VOC's folds at batch size 8; all 10,582 for the affinities.
BASE_SAMPLES = (7746, 6978, 5040, 8437)


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def cfg(request, monkeypatch) -> Config:
    monkeypatch.delenv('MMSEG_DHR_DATA', raising=False)
    init_default_scope('mmseg')
    return load_config(request.param)


def name_of(cfg: Config) -> str:
    return Path(cfg.filename).stem


def test_there_is_every_fold():
    names = {path.stem for path in CONFIGS}
    assert names == {f'{data}_fold{fold}_{step}' for data in ('voc', 'vocmini')
                     for fold in range(4) for step in STEPS} | {
        f'scenes_{step}' for step in ('cam', *STEPS)} | {'vocmini_fold0_dhr'}


def test_novel_classes_are_the_same_everywhere(cfg):
    if name_of(cfg) == 'scenes_cam':
        return
    named = [cfg.train_dataloader.dataset.novel]
    if cfg.pseudo_label_dataset.type == 'WeakShotDataset':
        named.append(cfg.pseudo_label_dataset.novel)
    if name_of(cfg).endswith(('segmentor', 'dhr')):
        named += [cfg.val_evaluator.novel, cfg.test_evaluator.novel]
        assert cfg.val_evaluator.type == 'BaseNovelIoUMetric'
    images = DATASETS.get(cfg.train_dataloader.dataset.dataset.type)
    labels = {novel_labels(novel, images.METAINFO['classes']) for novel in named}
    assert images in (PascalVOCDataset, ScenesDataset) and len(labels) == 1
    if 'fold' in name_of(cfg):
        fold = int(name_of(cfg).split('fold')[1][0])
        assert labels == {tuple(range(5 * fold + 1, 5 * fold + 6))}


def test_which_masks_are_read(cfg):
    steps = [step.type for step in cfg.train_dataloader.dataset.dataset.pipeline]
    part = cfg.train_dataloader.dataset.get('part', 'all')
    if name_of(cfg).endswith('boundary'):
        assert part == 'base' and 'LoadAnnotations' in steps
    elif name_of(cfg) != 'scenes_cam':
        assert part == 'all' and 'LoadMixedMask' in steps and 'LoadAnnotations' not in steps


def test_length(cfg):
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[0].end
    name = name_of(cfg)
    if name.startswith('voc_fold') and name.endswith('boundary'):
        assert cfg.train_cfg.max_iters == BASE_SAMPLES[int(name[8])]


@pytest.mark.parametrize('step', STEPS)
@pytest.mark.parametrize('data', ['scenes', 'vocmini_fold0', 'voc_fold0'])
@torch.no_grad()
def test_networks(data, step):
    init_default_scope('mmseg')
    cfg = load_config(CONFIGS[0].with_name(f'{data}_{step}.py'))
    model = MODELS.build(without_weights(cfg.model.to_dict())).eval()
    images = torch.zeros(1, 3, 64, 96)
    if step == 'boundary':
        assert model.boundary(images).shape == (1, 64, 96)
    elif step == 'affinity':
        assert model.affinity(images).values.shape[:2] == (1, 34)
    else:
        classes = DATASETS.get(cfg.val_dataloader.dataset.type).METAINFO['classes']
        assert model.encode_decode(images, [dict(img_shape=(64, 96))]).shape[1] == len(classes)
