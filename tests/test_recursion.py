"""Two processes with half the batch each train as one process does: weights and pseudo-labels."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmseg_dhr.formats import read_mask

WARMUP, ROUND, ITERATIONS = 2, 2, 6

# A config as `tools/train.py` reads it; mmengine would format it for every checkpoint.
LAUNCH = """
import sys, torch
torch.set_num_threads(1)
from mmengine.config import Config
from mmengine.runner import Runner
import mmseg_dhr
from mmseg_dhr.utils.cli import prepare_cpu_launch
Config.pretty_text = property(repr)
config = Config.fromfile(sys.argv[1])
config.work_dir = sys.argv[2]
for masks in ('base_masks', 'pseudo_labels'):
    if masks in config.custom_hooks[1]:
        config.custom_hooks[1][masks].out_dir = sys.argv[3]
config.train_dataloader.dataset.dataset.pipeline[1].mask_dir = sys.argv[3]
config.launcher, batch = sys.argv[4], int(sys.argv[5])
config.train_dataloader.batch_size = batch
prepare_cpu_launch(config)
Runner.from_cfg(config).train()
"""


@pytest.fixture
def write_config(tmp_path, tiny_model, tagged_scenes):
    """A tiny training after a warm-up, with a teacher; no statistics over a batch."""

    def write(masks: dict, marginal: str) -> None:
        load = [dict(type='LoadImageFromFile'),
                dict(type='LoadPseudoMask', mask_dir='', num_classes=9)]
        flip = dict(type='TrackGeometry', transforms=[dict(type='RandomFlip', prob=.5)])
        pack = dict(type='PackTaggedInputs')
        model = tiny_model(norm='GN', propagation=dict(
            type='DHRPropagation', num_classes=9, refine=None, stride=4, marginal=marginal))
        groups = dict(type='GN', num_groups=2, requires_grad=True)
        for part in ('backbone', 'decode_head'):
            model['segmentor'][part]['norm_cfg'] = groups
        if 'pseudo_labels' in masks:
            masks['pseudo_labels']['dataset'] = tagged_scenes([load[0], pack])
        settings = dict(
            model=model.to_dict(),
            train_dataloader=dict(
                batch_size=4, num_workers=0, dataset=tagged_scenes([*load, flip, pack], seed=0),
                sampler=dict(type='PositionSampler')),
            train_cfg=dict(type='ResumableIterLoop', max_iters=ITERATIONS),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=.05, momentum=.9)),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=ITERATIONS, by_epoch=False),
                logger=dict(type='LoggerHook', log_metric_by_epoch=False)),
            custom_hooks=[
                dict(type='EMAHook', momentum=.3),
                dict(type='RecursiveLearningHook', warmup_iters=WARMUP, source='teacher', **masks)
            ],
            find_unused_parameters=True, default_scope='mmseg', log_level='WARNING',
            randomness=dict(seed=0), env_cfg=dict(dist_cfg=dict(backend='gloo')))
        text = ''.join(f'{name} = {value!r}\n' for name, value in settings.items())
        (tmp_path / 'config.py').write_text(text)
        (tmp_path / 'launch.py').write_text(LAUNCH)

    return write


@pytest.mark.parametrize('online', [True, False], ids=['online', 'rounds'])
def test_two_processes_train_as_one(write_config, tmp_path, repo_root, online) -> None:
    if online:
        write_config(dict(base_masks={}), 'sqrt_area')
    else:
        rounds = dict(stride=4, share_momentum=.5)
        write_config(dict(interval=ROUND, pseudo_labels=rounds), 'shares')
    environment = {**os.environ, 'PYTHONPATH': str(repo_root), 'CUDA_VISIBLE_DEVICES': '',
                   'OMP_NUM_THREADS': '1'}
    distributed = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    runs = []
    for name, start, launcher, batch in (('one', [], 'none', '4'),
                                         ('two', distributed, 'pytorch', '2')):
        command = [sys.executable, *start, 'launch.py', 'config.py', name, f'{name}_masks',
                   launcher, batch]
        runs.append(subprocess.Popen(command, cwd=tmp_path, env=environment, text=True,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    for run in runs:
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors[-3000:]
    one, two = (torch.load(tmp_path / name / f'iter_{ITERATIONS}.pth', weights_only=False)
                for name in ('one', 'two'))
    for part in ('state_dict', 'ema_state_dict'):
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, rtol=1e-4, atol=1e-5)
    extra = {'manifest.json'} if online else {'manifest.json', 'shares.json'}
    assert_same_masks(tmp_path / 'one_masks', tmp_path / 'two_masks', extra)


def assert_same_masks(one: Path, two: Path, extra: set[str]) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert sorted(path.name for path in two.iterdir()) == names
    assert extra < set(names) and len(names) == len(extra) + 6
    masks = [[read_mask(folder / name) for name in names if name.endswith('.png')]
             for folder in (one, two)]
    different = sum(int((a != b).sum()) for a, b in zip(*masks, strict=True))
    # Sums in another order: a pixel on the border of two classes may change sides.
    assert different <= 1e-3 * sum(mask.size for mask in masks[0])
