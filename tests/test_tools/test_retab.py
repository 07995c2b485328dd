"""RETAB from tags and some masks to a segmentor, on six scenes, step by step as its README says."""
from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_dhr.formats import read_mask

OPTIONS = [
    'train_dataloader.dataset.dataset.num_train=6', 'train_dataloader.dataset.dataset.num_val=2',
    'train_dataloader.dataset.dataset.size=64', 'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
    'pseudo_label_dataset.dataset.num_train=6', 'pseudo_label_dataset.dataset.num_val=2',
    'pseudo_label_dataset.dataset.size=64', 'default_hooks.checkpoint.interval=2',
    'train_cfg.max_iters=2', 'param_scheduler.0.end=2'
]
TESTED = [
    'val_dataloader.dataset.num_train=6', 'val_dataloader.dataset.num_val=2',
    'val_dataloader.dataset.size=64', 'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False', 'train_cfg.val_interval=2',
    'test_dataloader.dataset.num_train=6', 'test_dataloader.dataset.num_val=2',
    'test_dataloader.dataset.size=64', 'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False'
]


@pytest.fixture
def steps(repo_root, run_tool, scenes_root):
    """Runs a command of a step; the scenes lie where the configs look for them."""
    shutil.copytree(scenes_root, 'data/scenes')

    def run(tool: str, step: str, *arguments: object, options: tuple[str, ...] = ()) -> None:
        config = repo_root / f'configs/retab/scenes_{step}.py'
        more = TESTED if step == 'segmentor' else []
        assert run_tool(tool, config, *arguments, '--cfg-options', *OPTIONS, *more, *options) == 0

    return run


def make_cams(steps) -> None:
    steps('train', 'cam')
    os.rename('work_dirs/scenes_cam/iter_2.pth', 'work_dirs/scenes_cam/iter_320.pth')
    steps('make_cams', 'cam', 'work_dirs/scenes_cam/iter_320.pth', 'cams', '--scales', 1)


def spoil_novel_masks(ids: set[str]) -> None:
    for image_id in ids:
        Path(f'data/scenes/SegmentationClass/{image_id}.png').write_bytes(b'garbage')


def check_that_boundaries_change_the_walk(steps, checkpoint: Path, ids: set[str]) -> None:
    os.mkdir('boundaries')
    for image_id in ids:
        boundary = np.zeros((64, 64), np.uint8)
        boundary[:, 20:40] = 255
        Image.fromarray(boundary).save(f'boundaries/{image_id}.png')
    walk = ('make_affinity_masks', 'affinity', checkpoint)
    steps(*walk, 'plain', '--cams', 'cams', '--maps')
    steps(*walk, 'staged', '--cams', 'cams', '--maps', '--boundaries', 'boundaries')
    for image_id in ids:
        plain, staged = (np.load(f'{folder}/{image_id}.npz')['cam']
                         for folder in ('plain', 'staged'))
        assert plain.shape == staged.shape and not np.array_equal(plain, staged)


def test_every_step(steps, capfd):
    make_cams(steps)
    steps('train', 'boundary')
    affinity = Path('work_dirs/scenes_affinity')
    steps('make_boundaries', 'boundary', 'work_dirs/scenes_boundary/iter_2.pth',
          affinity / 'boundaries')
    novel = {path.stem for path in (affinity / 'boundaries').glob('*.png')}
    assert 0 < len(novel) < 6  # only novel samples need any
    spoil_novel_masks(novel)
    steps('make_affinity_labels', 'affinity', affinity / 'labels', '--cams', 'cams')
    steps('train', 'affinity')
    masks = Path('work_dirs/scenes_segmentor/masks')
    steps('make_affinity_masks', 'affinity', affinity / 'iter_2.pth', masks, '--cams', 'cams',
          '--boundaries', affinity / 'boundaries')
    assert {path.stem for path in masks.glob('*.png')} == novel
    assert all(read_mask(path).shape == (64, 64) for path in masks.glob('*.png'))
    check_that_boundaries_change_the_walk(steps, affinity / 'iter_2.pth', novel)
    capfd.readouterr()
    steps('train', 'segmentor')
    said = ''.join(capfd.readouterr())
    assert 'novel_mIoU' in said and 'base_mIoU' in said
    steps('test', 'segmentor', 'work_dirs/scenes_segmentor/iter_2.pth')


def test_training_never_reads_the_mask_of_a_novel_sample(steps):
    """Garbage in its place gives the same weights, bit for bit."""
    make_cams(steps)
    affinity = Path('work_dirs/scenes_affinity')
    steps('make_affinity_labels', 'affinity', affinity / 'labels', '--cams', 'cams')
    novel = {path.stem for path in (affinity / 'labels').glob('*.png')}
    shutil.copytree(affinity / 'labels', 'work_dirs/scenes_segmentor/masks')
    no_boundary = 'train_dataloader.dataset.dataset.pipeline.1.boundary_dir=None'
    found = []
    for _ in range(2):
        weights = {}
        for step, options in (('boundary', ()), ('affinity', (no_boundary, )), ('segmentor', ())):
            steps('train', step, options=options)
            weights[step] = torch.load(f'work_dirs/scenes_{step}/iter_2.pth')['state_dict']
        found.append(weights)
        spoil_novel_masks(novel)
    for step, first in found[0].items():
        assert all(torch.equal(value, found[1][step][name]) for name, value in first.items())
