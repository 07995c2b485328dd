"""configs/dhr/voc_r101.py from end to end on nine drawn images in the layout of VOC."""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmseg.datasets import PascalVOCDataset
from PIL import Image

from mmseg_dhr.formats import read_mask, write_mask
from mmseg_dhr.models import DHRPropagation

PALETTE = PascalVOCDataset.METAINFO['palette']
TRAIN = ['2007_000032', '2007_000039']
AUG = ['2008_000008', '2009_000012', '2010_000001', '2011_000002']
VAL = ['2007_000033', '2007_000042', '2007_000061']
# ResNet-101 and the ViT keep their depth but not their width, crops are a tenth as large.
SMALL = [
    'model.segmentor.backbone.init_cfg=None', 'model.segmentor.backbone.base_channels=8',
    'model.segmentor.backbone.stem_channels=8', 'model.segmentor.decode_head.in_channels=256',
    'model.segmentor.decode_head.channels=16', 'model.segmentor.decode_head.c1_in_channels=32',
    'model.segmentor.decode_head.c1_channels=8', 'model.cam_head.in_channels=256',
    'model.segmentor.data_preprocessor.size=(48,48)',
    'train_dataloader.dataset.dataset.pipeline.2.transforms.0.scale=(80,80)',
    'train_dataloader.dataset.dataset.pipeline.2.transforms.1.crop_size=(48,48)',
    'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False', 'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False', 'default_hooks.checkpoint.interval=2',
    'default_hooks.logger.interval=1'
]
RANDOM_VIT = ['model.uss_encoder.model_name=vit_tiny_patch16_224',
              'model.uss_encoder.checkpoint=None']


def draw(root: Path, image_id: str, rng: np.random.Generator) -> None:
    """A photo with two objects and its mask, with borders of 255."""
    height, width = rng.integers(64, 81, 2)
    mask = np.zeros((height, width), np.uint8)
    image = rng.integers(0, 60, (height, width, 3))
    for label, left in zip(rng.choice(np.arange(1, 21), 2, replace=False), (4, 36), strict=True):
        top, right = rng.integers(4, 20), left + rng.integers(20, 26)
        mask[top - 2:56, left - 2:right + 2] = 255
        mask[top:54, left:right] = label
        image[top:54, left:right] += rng.integers(80, 190, 3)
    Image.fromarray(image.astype(np.uint8)).save(root / f'JPEGImages/{image_id}.jpg', quality=90)
    if image_id not in AUG:
        write_mask(root / f'SegmentationClass/{image_id}.png', mask, PALETTE)
    if image_id != TRAIN[0]:  # SBD lacks some images of VOC's own train part, and has no palette
        Image.fromarray(mask).save(root / f'SegmentationClassAug/{image_id}.png')


@pytest.fixture(scope='module')
def pristine(tmp_path_factory) -> Path:
    """The folder as mmseg's converter leaves it."""
    root = tmp_path_factory.mktemp('devkit') / 'VOC2012'
    for folder in ('JPEGImages', 'SegmentationClass', 'SegmentationClassAug',
                   'ImageSets/Segmentation'):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, ids in (('train', TRAIN), ('aug', AUG), ('val', VAL)):
        for image_id in ids:
            draw(root, image_id, rng)
        (root / f'ImageSets/Segmentation/{name}.txt').write_text('\n'.join(ids) + '\n')
    return root


@pytest.fixture
def voc(pristine, tmp_path, run_tool) -> Path:
    """A copy of the folder, completed by this package's converter."""
    root = shutil.copytree(pristine, tmp_path / 'VOC2012')
    assert run_tool('dataset_converters/voc_trainaug', root) == 0
    return root


@pytest.fixture
def config(repo_root) -> Path:
    return repo_root / 'configs/dhr/voc_r101.py'


def options(iters: int, *more: str) -> list[str]:
    return ['--work-dir', 'run', '--cfg-options', *SMALL, *RANDOM_VIT,
            f'train_cfg.max_iters={iters}', f'train_cfg.val_interval={iters}',
            f'param_scheduler.0.end={iters}', *more]


def command(repo_root, env, *arguments: object) -> str:
    """Run a command as a user does; returns all that it said."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env={**env, 'OMP_NUM_THREADS': '1'},
        capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_train_resume_and_test(config, voc, repo_root, subprocess_env, run_tool, capfd):
    train = repo_root / 'tools/train.py'
    warmup = 'custom_hooks.0.warmup_iters=2'
    said = command(repo_root, subprocess_env, train, config, '--data-root', voc,
                   *options(4, warmup))
    assert 'Iter(train) [4/4]' in said and 'mIoU' in said
    assert Path('run/warmup.pth').is_file()  # tags alone first, for there are no masks
    said = command(repo_root, subprocess_env, train, config, '--data-root', voc, '--resume',
                   *options(6, warmup))
    assert 'resumed' in said and 'Iter(train) [6/6]' in said
    assert 'Iter(train) [5/6]' in said and 'Iter(train) [4/6]' not in said
    state = torch.load('run/iter_6.pth')
    assert not any('uss_encoder' in name for name in state['state_dict'])
    assert all(value.isfinite().all() for value in state['state_dict'].values())
    capfd.readouterr()
    assert run_tool('test', config, 'run/iter_6.pth', '--data-root', voc, '--crf', '--out', 'masks',
                    '--cfg-options', *SMALL) == 0  # needs no weights of the USS encoder
    assert re.search(r'\| +aeroplane +\|', ''.join(capfd.readouterr()))
    for image_id in VAL:
        assert read_mask(f'masks/{image_id}.png').shape == \
            read_mask(voc / f'SegmentationClass/{image_id}.png').shape


@pytest.fixture
def base_dir(voc, tmp_path, monkeypatch) -> Path:
    """Masks of another method, given as the config's comment says."""
    folder = tmp_path / 'rsepm'
    for image_id in TRAIN + AUG:
        mask = read_mask(voc / f'SegmentationClassAug/{image_id}.png')
        write_mask(folder / f'{image_id}.png', np.where(mask == 255, 0, mask), PALETTE)
    monkeypatch.setenv('MMSEG_DHR_BASE', str(folder))
    return folder


@pytest.fixture
def seed_dir(base_dir, tmp_path, monkeypatch) -> Path:
    """Seeds in the layout of PSA that say the same."""
    folder = tmp_path / 'cams'
    folder.mkdir()
    for image_id in TRAIN + AUG:
        mask = read_mask(base_dir / f'{image_id}.png')
        np.save(folder / f'{image_id}.npy', {
            int(label) - 1: np.where(mask == label, 0.9, 0.05).astype(np.float32)
            for label in np.unique(mask) if label})
    monkeypatch.setenv('MMSEG_DHR_BASE', str(folder))
    return folder


@pytest.fixture
def seen(monkeypatch) -> list:
    """The batches that DHR propagates."""
    batches = []
    run = DHRPropagation.__call__

    def record(self, batch, stages=False):
        batches.append(batch)
        return run(self, batch, stages)

    monkeypatch.setattr(DHRPropagation, '__call__', record)
    return batches


def test_masks_of_another_method(config, voc, base_dir, seen, run_tool):
    assert run_tool('train', config, '--data-root', voc, *options(2)) == 0
    assert len(seen) == 2  # no warm-up
    for batch in seen:
        assert (batch.base != 255).any()
    assert not Path('run/warmup.pth').exists()
    for path in base_dir.iterdir():
        assert np.array_equal(read_mask(path), read_mask(Path('run/base_masks', path.name)))


def test_seeds_of_another_method(config, voc, base_dir, seed_dir, seen, run_tool, capfd):
    plain = 'custom_hooks.0.base_masks.crf=None'
    assert run_tool('train', config, '--data-root', voc, *options(2, plain)) == 0
    said = ''.join(capfd.readouterr())
    assert 'cams: 6 .npy files of flavour psa (a dict {class: map} in each file; also the layout ' \
        'of seam and mctformer: ' in said
    assert 'Classes: 0-based, foreground alone.' in said
    assert 'the background score is (1 - max)^16, that of psa.' in said
    assert len(seen) == 2  # no warm-up
    for batch in seen:
        assert (batch.base != 255).any()
    # .9 > .1^16, and (1 - .05)^16 = .44 > .05: the masks that the seeds were drawn from
    for path in base_dir.iterdir():
        assert np.array_equal(read_mask(path), read_mask(Path('run/base_masks', path.name)))
    # Taken up from the masks; the seeds are not read again.
    (seed_dir / f'{AUG[0]}.npy').unlink()
    assert run_tool('train', config, '--data-root', voc, '--resume', *options(3, plain)) == 0
    assert len(seen) == 3


def test_seeds_by_hand_and_their_score(config, voc, seed_dir, run_tool, capfd):
    assert run_tool('make_base_masks', config, seed_dir, 'masks', '--flavour', 'seam', '--no-crf',
                    '--data-root', voc) == 0
    assert '(1 - max)^6, that of seam' in ''.join(capfd.readouterr())
    assert run_tool('evaluate_masks', 'masks', '--config', config, '--jobs', '1', '--json',
                    'scores.json', '--data-root', voc) == 0
    assert json.loads(Path('scores.json').read_text())['all']['miou'] == 100


def test_a_missing_mask_is_named(config, voc, base_dir, run_tool, capfd):
    (base_dir / f'{AUG[1]}.png').unlink()
    assert run_tool('train', config, '--data-root', voc, *options(4)) == 2
    assert f'rsepm: 1 of 6 images have no .png file: {AUG[1]}.' in one_line(capfd)


def one_line(capfd) -> str:
    """The only line that a failed command prints beside the log."""
    text = capfd.readouterr().err
    assert 'Traceback' not in text
    (line, ) = [line for line in text.split('\n') if line.startswith('error: ')]
    assert text.endswith(line + '\n')
    return line


def test_missing_weights_of_the_uss_encoder(config, voc, run_tool, capfd):
    vit = ['model.uss_encoder.model_name=vit_tiny_patch16_224']
    assert run_tool('train', config, '--data-root', voc, '--work-dir', 'run', '--cfg-options',
                    *SMALL, *vit) == 2
    line = one_line(capfd)
    assert 'expected checkpoints/vit_small_patch14_dinov2.safetensors' in line
    assert 'tools/misc/save_timm_weights.py' in line


@pytest.mark.parametrize(('damage', 'parts'), [
    (lambda voc: shutil.rmtree(voc), ('VOC2012: no such data folder', '--data-root',
                                      'MMSEG_DHR_DATA')),
    (lambda voc: os.remove(voc / 'ImageSets/Segmentation/trainaug.txt'),
     ('trainaug.txt: not found', 'python tools/dataset_converters/voc_trainaug.py')),
    (lambda voc: os.remove(voc / 'SegmentationClassAug/2007_000032.png'),
     ('SegmentationClassAug', '2007_000032')),
])
def test_missing_data(config, voc, run_tool, capfd, damage, parts):
    damage(voc)
    capfd.readouterr()
    assert run_tool('train', config, '--data-root', voc, *options(4)) == 2
    line = one_line(capfd)
    assert all(part in line for part in parts)
