"""Bad data and wrong checkpoints: exit code 2 and one line that says which file and what to do."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmseg_dhr.formats import read_mask, write_mask

PALETTE = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
# The tiny config of these tests, trained from tags and given masks, as the DHR configs are.
TAGGED = """
_base_ = './tiny.py'
load = dict(type='LoadImageFromFile', imdecode_backend='pillow')
train_dataloader = dict(
    _delete_=True, batch_size=2, num_workers=0, sampler=dict(type='PositionSampler'),
    dataset=dict(
        type='TaggedDataset', seed=0, labels=dict(type='masks', path='SegmentationClassAug'),
        dataset=dict(_base_.images, ann_file='ImageSets/train.txt', pipeline=[
            load, dict(type='LoadPseudoMask', mask_dir='base', num_classes=3),
            dict(type='TrackGeometry',
                 transforms=[dict(type='RandomCrop', crop_size=_base_.crop_size)]),
            dict(type='PackTaggedInputs')])))
train_cfg = dict(_delete_=True, type='ResumableIterLoop', max_iters=2, val_interval=2)
val_dataloader = dict(
    _delete_=True, batch_size=1, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(_base_.images, ann_file='ImageSets/val.txt', pipeline=[
        load, dict(type='LoadAnnotations'), dict(type='PackSegInputs')]))
test_dataloader = val_dataloader
val_cfg = dict(type='ValLoop')
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
"""
RANDOM = 'model.segmentor.backbone.init_cfg=None'


@pytest.fixture
def config(write_config, dual_encoder, voc_dir, tmp_path) -> str:
    """Config beside its masks."""
    write_config(dual_encoder)
    for name in ('im0', 'im1'):
        write_mask(f'base/{name}.png', read_mask(voc_dir / f'SegmentationClassAug/{name}.png'),
                   PALETTE)
    file = tmp_path / 'tagged.py'
    file.write_text(TAGGED)
    return str(file)


def one_line(capfd) -> str:
    """The only line of an error, the last that is printed."""
    text = capfd.readouterr().err
    assert 'Traceback' not in text
    (line, ) = [line for line in text.split('\n') if line.startswith('error: ')]
    assert text.endswith(f'{line}\n')
    return line


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def grow(path: Path) -> None:
    write_mask(path, np.zeros((40, 57), np.uint8), PALETTE)


def test_the_config_trains_as_it_is(config, run_tool, voc_dir):
    assert run_tool('train', config, '--data-root', voc_dir, '--work-dir', 'run', '--cfg-options',
                    RANDOM) == 0
    assert Path('run/iter_2.pth').is_file()


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize(('damage', 'file', 'parts'), [
    (truncate, 'JPEGImages/im1.jpg', ('whole image', 'cannot be decoded', 'take it off')),
    (grow, 'base/im1.png', ("the image's size 40x56", 'found 40x57')),
    (grow, 'SegmentationClassAug/im3.png', ('40x56', 'found 40x57')),
])
def test_damaged_training_data(config, run_tool, voc_dir, capfd, damage, file, parts, workers):
    damage(Path(file) if file.startswith('base') else voc_dir / file)
    assert run_tool('train', config, '--data-root', voc_dir, '--cfg-options', RANDOM,
                    f'train_dataloader.num_workers={workers}',
                    f'val_dataloader.num_workers={workers}') == 2
    line = one_line(capfd)
    assert all(part in line for part in (file, *parts))


def test_true_mask_of_another_size(config, save_checkpoint, run_tool, voc_dir, capfd):
    checkpoint = save_checkpoint(config)
    grow(voc_dir / 'SegmentationClassAug/im2.png')
    for tta in ([], ['--tta']):
        assert run_tool('test', config, checkpoint, '--data-root', voc_dir, *tta) == 2
        line = one_line(capfd)
        assert 'SegmentationClassAug/im2.png' in line and 'found 40x57' in line


def test_training_from_a_checkpoint_of_other_classes(config, save_checkpoint, run_tool, voc_dir,
                                                     capfd):
    checkpoint = save_checkpoint(config)
    assert run_tool('train', config, '--data-root', voc_dir, '--cfg-options', RANDOM,
                    f'load_from={checkpoint}', 'model.segmentor.decode_head.num_classes=4',
                    'model.cam_head.num_classes=4') == 2
    line = one_line(capfd)
    assert 'another number of classes' in line and 'conv_seg.weight' in line


def test_testing_a_checkpoint_of_other_classes(config, save_checkpoint, run_tool, voc_dir, capfd):
    checkpoint = save_checkpoint(config)
    for tta in ([], ['--tta']):
        assert run_tool('test', config, checkpoint, '--data-root', voc_dir, *tta, '--cfg-options',
                        'model.segmentor.decode_head.num_classes=4') == 2
        line = one_line(capfd)
        assert checkpoint in line and 'another number of classes' in line


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_wrong_data_root(config, run_tool, capfd, tool):
    checkpoint = ['absent.pth'] if tool == 'test' else []
    assert run_tool(tool, config, *checkpoint, '--data-root', 'elsewhere') == 2
    line = one_line(capfd)
    assert line.startswith('error: elsewhere: no such data folder (`') and '--data-root' in line


def test_unknown_label_in_a_mask(config, run_tool, voc_dir, capfd):
    write_mask('base/im0.png', np.full((40, 56), 3), PALETTE)
    assert run_tool('train', config, '--data-root', voc_dir, '--cfg-options', RANDOM) == 2
    line = one_line(capfd)
    assert 'base/im0.png: expected label indices below 3 or 255, but found [3]' in line


def test_exit_code_and_stderr_of_a_command(config, voc_dir, repo_root, subprocess_env, tmp_path):
    """With nothing between the shell and the command; --debug brings the traceback."""
    truncate(voc_dir / 'JPEGImages/im0.jpg')
    for flags, code in (([], 2), (['--debug'], 1)):
        done = subprocess.run(
            [sys.executable, str(repo_root / 'tools/train.py'), config, '--data-root', str(voc_dir),
             *flags, '--cfg-options', RANDOM], env={**subprocess_env, 'OMP_NUM_THREADS': '1'},
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == code
        assert ('Traceback' in done.stderr) == bool(flags)
        assert 'JPEGImages/im0.jpg: expected a whole image file' in done.stderr.splitlines()[-1]
