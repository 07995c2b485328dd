"""From tags to CAM folders: train SEAM, write its CAMs, climb."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmseg_dhr.formats import Manifest, read_cam, read_mask

SEAM = """dict(
    type='SEAM', data_preprocessor=data_preprocessor, rescale=0.5, tap_indices=(1, 2),
    tap_in_channels=(16, 32), tap_channels=(4, 4),
    backbone=dict(type='ResNetV1c', depth=18, base_channels=8, stem_channels=8,
                  strides=(1, 2, 1, 1), dilations=(1, 1, 1, 2)),
    cam_head=dict(type='CAMHead', in_channels=64, num_classes=3))
tagged = dict(type='TaggedDataset', seed=0,
              labels=dict(type='masks', path='SegmentationClassAug'))
pseudo_label_dataset = dict(tagged, dataset=dict(
    type='BaseSegDataset', data_root='{{$MMSEG_DHR_DATA:data/nowhere}}',
    data_prefix=dict(img_path='JPEGImages'), ann_file='ImageSets/train.txt',
    metainfo=dict(classes=('background', 'cat', 'dog'),
                  palette=[[0, 0, 0], [128, 0, 0], [0, 128, 0]]),
    pipeline=[dict(type='LoadImageFromFile'), dict(type='RandomCrop', crop_size=crop_size),
              dict(type='PackTaggedInputs')]))
"""
LOADER = """
train_dataloader['dataset'] = pseudo_label_dataset
randomness = dict(seed=0)  # some seeds make a network that sees nothing
"""


@pytest.fixture
def trained(run_tool, write_config, voc_dir, tmp_path, monkeypatch) -> tuple[str, Path]:
    """Config and checkpoint of a SEAM after two iterations."""
    config = write_config(SEAM)
    with open(config, 'a', encoding='utf-8') as file:
        file.write(LOADER)
    monkeypatch.setenv('MMSEG_DHR_DATA', str(voc_dir))
    assert run_tool('train', config, '--work-dir', 'run', '--cfg-options', 'val_cfg=None',
                    'test_cfg=None', 'test_dataloader=None', 'test_evaluator=None') == 0
    return config, tmp_path / 'run/iter_2.pth'


def test_from_tags_to_cams(trained, run_tool, capfd) -> None:
    config, checkpoint = trained
    folders = {}
    for name, more in dict(plain=(), climbed=('--climb-iters', '2', '--climb-step', '1e4')).items():
        folders[name] = Path(name)
        assert run_tool('make_cams', config, checkpoint, name, '--scales', '1', *more) == 0
    settings = {name: Manifest.load(folder).settings for name, folder in folders.items()}
    assert 'climbing' not in settings['plain']
    assert settings['climbed'].pop('climbing') == dict(
        iters=2, step=1e4, others_weight=1.0, keep_weight=7.0, keep_threshold=0.5)
    assert settings['climbed'] == settings['plain']
    for image in ('im0', 'im1'):
        plain, climbed = (read_cam(folder / f'{image}.npz') for folder in folders.values())
        assert plain.labels.tolist() == climbed.labels.tolist() == [1, 2]
        assert not np.array_equal(plain.maps, climbed.maps)
    capfd.readouterr()
    assert run_tool('make_cams', config, checkpoint, 'climbed', '--scales', '1') == 2
    assert 'climbing was' in capfd.readouterr().err


def test_masks_of_a_classifier(trained, run_tool) -> None:
    """Its CAMs on the fly, or from a folder: the same masks."""
    config, checkpoint = trained
    assert run_tool('make_cams', config, checkpoint, 'cams', '--scales', '1') == 0
    for source, out in ((checkpoint, 'direct'), ('cams', 'stored')):
        assert run_tool('make_base_masks', config, source, out) == 0
    for image in ('im0', 'im1'):
        direct, stored = (read_mask(f'{folder}/{image}.png') for folder in ('direct', 'stored'))
        assert direct.shape == (40, 56) and np.array_equal(direct, stored)


@pytest.mark.parametrize('tool', ['make_cams', 'make_base_masks'])
def test_a_model_without_cams(run_tool, write_config, save_checkpoint, voc_dir, capfd,
                              tool) -> None:
    config = write_config(SEAM)
    Path(config).write_text(Path(config).read_text().replace('model = dict(', 'seam = dict(') +
                            '\nmodel = segmentor\n')
    assert run_tool(tool, config, save_checkpoint(config), 'out', '--data-root', voc_dir) == 2
    assert '`cam_maps`' in capfd.readouterr().err
