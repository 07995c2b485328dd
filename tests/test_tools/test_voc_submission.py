"""configs/dhr/voc_r101_test.py: a split without masks, and an archive for the server."""
from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image

from mmseg_dhr.formats import read_mask

IDS = ('2008_000006', '2008_000011')
TINY = """_base_ = ['{base}']
norm_cfg = dict(type='BN')
model = dict(
    _delete_=True, type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.] * 3, std=[58.] * 3,
                           bgr_to_rgb=True),
    backbone=dict(type='ResNetV1c', depth=18, base_channels=8, stem_channels=8, norm_cfg=norm_cfg),
    decode_head=dict(type='FCNHead', in_channels=64, in_index=3, channels=8, num_classes=21,
                     norm_cfg=norm_cfg, align_corners=False),
    test_cfg=dict(mode='whole'))
test_dataloader = dict(num_workers=0, persistent_workers=False)
"""


@pytest.fixture
def pair(repo_root, tmp_path) -> tuple[Path, Path]:
    """Config with a small model, and random weights."""
    config = tmp_path / 'tiny.py'
    config.write_text(TINY.format(base=repo_root / 'configs/dhr/voc_r101_test.py'))
    init_default_scope('mmseg')
    model = MODELS.build(Config.fromfile(config).model)
    model.decode_head.conv_seg.weight.data.normal_()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'tiny.pth')
    return config, tmp_path / 'tiny.pth'


@pytest.fixture
def voc(tmp_path) -> Path:
    """Two photos and their list."""
    root = tmp_path / 'VOC2012'
    (root / 'JPEGImages').mkdir(parents=True)
    (root / 'ImageSets/Segmentation').mkdir(parents=True)
    (root / 'ImageSets/Segmentation/test.txt').write_text('\n'.join(IDS))
    rng = np.random.default_rng(0)
    for image_id in IDS:
        Image.fromarray(rng.integers(0, 255, (40, 56, 3), np.uint8)).save(
            root / f'JPEGImages/{image_id}.jpg')
    return root


@pytest.mark.parametrize('flags', [[], ['--tta']])
def test_an_archive_for_the_server(pair, voc, run_tool, flags):
    assert run_tool('test', *pair, '--data-root', voc, '--format-voc', 'mine', *flags) == 0
    folder = 'results/VOC2012/Segmentation/comp6_test_cls'
    with tarfile.open('mine/results.tgz') as tar:
        assert {m.name for m in tar if m.isfile()} == {f'{folder}/{i}.png' for i in IDS}
    for image_id in IDS:
        mask = read_mask(f'mine/{folder}/{image_id}.png')
        assert mask.shape == (40, 56) and mask.max() <= 20
    assert run_tool('test', *pair, '--data-root', voc, '--format-voc', 'mine') == 2  # of other runs


def test_masks_are_taken_out_of_pipelines(load_tool):
    load, masks, pack = (dict(type=name) for name in
                         ('LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs'))
    views = [[dict(type='Resize', scale_factor=2.)], [masks], [pack]]
    without = load_tool('test').without_masks([load, masks, dict(type='TestTimeAug',
                                                                 transforms=views)])
    assert without == [load, dict(type='TestTimeAug', transforms=[views[0], [pack]])]
