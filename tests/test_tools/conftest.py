"""A tiny VOC-like data set, a tiny model and a way to call the tools in this process."""
from __future__ import annotations

import importlib.util
from argparse import ArgumentParser
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.visualization import Visualizer
from mmseg.visualization import SegLocalVisualizer
from PIL import Image

from mmseg_dhr.formats import write_mask

PALETTE = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
CONFIG = """
custom_imports = dict(imports=['mmseg_dhr'])
default_scope = 'mmseg'
crop_size = (32, 32)
norm_cfg = dict(type='SyncBN')
data_preprocessor = dict(
    type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True, pad_val=0, seg_pad_val=255, size=crop_size)
segmentor = dict(
    type='EncoderDecoder', data_preprocessor=data_preprocessor,
    backbone=dict(type='ResNetV1c', depth=18, base_channels=8, stem_channels=8, norm_cfg=norm_cfg,
                  init_cfg=dict(type='Pretrained', checkpoint='there/is/no/such/file.pth')),
    decode_head=dict(type='FCNHead', in_channels=64, in_index=3, channels=8, num_classes=3,
                     norm_cfg=norm_cfg, align_corners=False,
                     loss_decode=dict(type='CrossEntropyLoss')),
    auxiliary_head=dict(type='FCNHead', in_channels=32, in_index=2, channels=8, num_convs=1,
                        num_classes=3, norm_cfg=norm_cfg, align_corners=False,
                        loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4)),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
model = MODEL
load = dict(type='LoadImageFromFile')
test_pipeline = [load, dict(type='Resize', scale=(48, 32), keep_ratio=True),
                 dict(type='LoadAnnotations'), dict(type='PackTaggedInputs')]
tta_pipeline = [load, dict(type='TestTimeAug', transforms=[
    [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (0.5, 1.0)],
    [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0., 1.)],
    [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
tta_model = dict(type='CRFTTAModel', crf=None)
images = dict(
    type='BaseSegDataset', data_root='{{$MMSEG_DHR_DATA:data/nowhere}}',
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug'),
    metainfo=dict(classes=('background', 'cat', 'dog'),
                  palette=[[0, 0, 0], [128, 0, 0], [0, 128, 0]]))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(images, ann_file='ImageSets/train.txt',
                 pipeline=[load, dict(type='LoadAnnotations'),
                           dict(type='RandomCrop', crop_size=crop_size),
                           dict(type='PackSegInputs')]))
val_dataloader = None
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(images, ann_file='ImageSets/val.txt', pipeline=test_pipeline))
test_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU']), dict(type='PseudoLabelMetric')]
test_cfg = dict(type='TestLoop')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2))
"""
DUAL_ENCODER = """dict(
    type='DualEncoderSegmentor', segmentor=segmentor,
    data_preprocessor=dict(pad_val=7),
    cam_head=dict(type='CAMHead', in_channels=64, num_classes=3))"""


@pytest.fixture(autouse=True)
def _keep_global_state(monkeypatch, tmp_path):
    """The tools set the scope and variables of the process and write below the current folder."""
    instances = DefaultScope._instance_dict.copy()
    monkeypatch.chdir(tmp_path)
    for name in ('MMSEG_DHR_DATA', 'MMSEG_DHR_DEBUG', 'LOCAL_RANK'):
        monkeypatch.setenv(name, '')  # remembers the value of before
        monkeypatch.delenv(name)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(instances)
    MMLogger._instance_dict.clear()  # they write to the captured stderr of this test


@pytest.fixture(autouse=True)
def _own_visualizer(monkeypatch):
    """There is one per process, which writes to the folder of the first training."""
    for kind in (Visualizer, SegLocalVisualizer):
        monkeypatch.setattr(kind, '_instance_dict', OrderedDict())


@pytest.fixture
def voc_dir(tmp_path) -> Path:
    """Two train and two val images in the layout of VOC."""
    root = tmp_path / 'voc'
    (root / 'JPEGImages').mkdir(parents=True)
    (root / 'ImageSets').mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        image = rng.integers(0, 256, (40, 56, 3)).astype(np.uint8)
        Image.fromarray(image).save(root / f'JPEGImages/im{i}.jpg')
        mask = rng.integers(0, 3, (40, 56))
        write_mask(root / f'SegmentationClassAug/im{i}.png', mask, PALETTE)
    (root / 'ImageSets/train.txt').write_text('im0\nim1\n')
    (root / 'ImageSets/val.txt').write_text('im2\nim3\n')
    return root


@pytest.fixture
def write_config(tmp_path) -> Callable[[str], str]:
    """Writes the tiny config around a model, given as source text."""
    def write(model: str = 'segmentor') -> str:
        file = tmp_path / 'tiny.py'
        file.write_text(CONFIG.replace('MODEL', model))
        return str(file)
    return write


@pytest.fixture
def save_checkpoint(tmp_path) -> Callable[[str], str]:
    """Saves random weights of a config's model as a training would; returns the file."""
    def save(config: str) -> str:
        init_default_scope('mmseg')
        cfg = Config.fromfile(config)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        for name, value in model.state_dict().items():  # batch norm too: nothing keeps its default
            if value.ndim == 4:  # as large as its input, so that the logits differ
                value.normal_(0, (2 / value[0].numel())**0.5)
            elif name.endswith('running_var') or name.endswith('weight'):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.uniform_(-0.2, 0.2)
        file = tmp_path / 'weights.pth'
        torch.save(dict(state_dict=model.state_dict(), meta=dict(
            dataset_meta=dict(cfg.images.metainfo, label_map=None))), file)
        return str(file)
    return save


@pytest.fixture
def dual_encoder() -> str:
    """Source text of a DualEncoderSegmentor around the tiny segmentor."""
    return DUAL_ENCODER


@pytest.fixture
def load_tool(repo_root) -> Callable:
    """Imports a command of ``tools`` as a module."""
    def load(name: str):
        path = repo_root / 'tools' / f'{name}.py'
        spec = importlib.util.spec_from_file_location(f'tool_{path.stem}', path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    return load


@pytest.fixture
def parser_of(load_tool, monkeypatch) -> Callable[[str], ArgumentParser]:
    """The parser of a command, as it is when the command line is to be read."""
    class Made(BaseException):  # passes through what handles errors
        pass

    def stop(parser: ArgumentParser, *_: object) -> None:
        raise Made(parser)

    def find(name: str) -> ArgumentParser:
        with monkeypatch.context() as patch, pytest.raises(Made) as made:
            patch.setattr(ArgumentParser, 'parse_args', stop)
            load_tool(name).main()
        return made.value.args[0]
    return find


@pytest.fixture
def run_tool(load_tool, monkeypatch) -> Callable:
    """Runs ``main`` of a command with arguments; returns its exit code."""
    def run(name: str, *arguments: object) -> int:
        monkeypatch.setattr('sys.argv', [name, *map(str, arguments)])
        try:
            load_tool(name).main()
        except SystemExit as stop:
            return stop.code
        return 0
    return run
