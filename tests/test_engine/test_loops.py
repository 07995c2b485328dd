"""A training that is killed and resumed ends with the weights of one that was not."""
from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from mmseg_dhr.datasets import samplers
from mmseg_dhr.engine import loops
from mmseg_dhr.formats import write_mask

IDS = ['a', 'b', 'c', 'd', 'e']
METAINFO = dict(classes=('background', 'one'), palette=[[0, 0, 0], [255, 0, 0]])


# Configs name components of mmseg.
pytestmark = pytest.mark.usefixtures('mmseg_modules')


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for image_id in IDS:
        (tmp_path / 'images').mkdir(exist_ok=True)
        image = Image.fromarray(rng.integers(0, 255, (12, 14, 3), np.uint8))
        image.save(tmp_path / 'images' / f'{image_id}.png')
    (tmp_path / 'labels.json').write_text(json.dumps({image_id: ['one'] for image_id in IDS}))
    write_masks(tmp_path, 0)
    return tmp_path


def write_masks(root, label):
    for image_id in IDS:
        mask = np.full((12, 14), label, np.uint8)
        write_mask(root / 'masks' / f'{image_id}.png', mask, METAINFO['palette'])


class TinyModel(BaseModel):
    """Dropout, batch norm and momentum: everything that has a state of its own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
                                    nn.Dropout(.5), nn.Conv2d(4, 1, 1))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        images = torch.stack(list(inputs)).float() / 255
        noise = float(np.random.rand())  # models may draw from numpy as well
        return dict(loss=(self.layers(images) - noise).square().mean())


class Watch(Hook):
    """Notes what each iteration was given, and calls something after one of them."""

    def __init__(self, after=None, call=None):
        self.ids, self.labels, self.drawn = [], [], []
        self.after, self.call = after, call

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.drawn.append((np.random.rand(), torch.rand(1).item()))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        samples = data_batch['data_samples']
        self.ids.append([sample.img_id for sample in samples])
        self.labels.append([int(sample.gt_sem_seg.data.max()) for sample in samples])
        if batch_idx == self.after:
            self.call(runner)


def make_runner(root, work_dir, max_iters, hook=None, resume=False, workers=0, persistent=False,
                sampler='PositionSampler', seed=0, **loader):
    torch.manual_seed(0)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadPseudoMask', mask_dir=str(root / 'masks'), num_classes=2, required=True),
        dict(type='TrackGeometry', transforms=[dict(type='RandomCrop', crop_size=(8, 8)),
                                               dict(type='RandomFlip', prob=.5),
                                               dict(type='PhotoMetricDistortion')]),
        dict(type='PackTaggedInputs')]
    dataset = dict(type='BaseSegDataset', data_root=str(root), data_prefix=dict(img_path='images'),
                   img_suffix='.png', metainfo=METAINFO, pipeline=pipeline)
    return Runner(
        model=TinyModel(), work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2, num_workers=workers, persistent_workers=persistent,
            dataset=dict(type='TaggedDataset', dataset=dataset, seed=seed,
                         labels=dict(type='json', path='labels.json')),
            sampler=dict(type=sampler), **loader),
        train_cfg=dict(type='ResumableIterLoop', max_iters=max_iters),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=.1, momentum=.9)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False),
                           logger=dict(type='LoggerHook', log_metric_by_epoch=False)),
        custom_hooks=[hook] if hook else None, resume=resume, log_level='WARNING',
        default_scope='mmseg', randomness=dict(seed=0),
        experiment_name=str(work_dir).replace('/', '_') + str(resume) + str(max_iters))


def train(*args, **kwargs):
    hook = kwargs.setdefault('hook', Watch())
    runner = make_runner(*args, **kwargs)
    try:
        runner.train()
    finally:
        # Workers end here. Left to the garbage collector, they are waited for in vain.
        runner.train_loop.dataloader_iterator = runner.train_dataloader._iterator = None
    return runner, hook


def assert_equal_weights(first, second):
    first, second = first.model.state_dict(), second.model.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize('workers, persistent', [(0, False), (2, False), (2, True)])
def test_resumed_equals_uninterrupted(root, workers, persistent):
    options = dict(workers=workers, persistent=persistent)
    whole, seen = train(root, root / 'whole', 6)  # without workers: their number must not matter
    half, seen_first = train(root, root / 'half', 3, **options)
    np.random.rand(7), torch.rand(7)
    resumed, seen_last = train(root, root / 'half', 6, resume=True, **options)
    assert seen_first.ids + seen_last.ids == seen.ids
    assert len({tuple(ids) for ids in seen.ids}) > 3
    assert seen_first.drawn + seen_last.drawn == seen.drawn
    assert len({value for pair in seen.drawn for value in pair}) == 12
    assert_equal_weights(resumed, whole)
    with pytest.raises(AssertionError):
        assert_equal_weights(resumed, half)  # the last three iterations did train


def test_resume_keeps_each_rank_on_its_part(root, monkeypatch):
    monkeypatch.setattr(samplers, 'get_dist_info', lambda: (1, 2))
    monkeypatch.setattr(loops, 'get_world_size', lambda: 2)
    _, seen = train(root, root / 'whole', 5)
    _, seen_first = train(root, root / 'half', 3)
    _, seen_last = train(root, root / 'half', 5, resume=True)
    assert seen_first.ids + seen_last.ids == seen.ids


def test_other_seed_of_the_data_gives_other_weights(root):
    first, _ = train(root, root / 'first', 2)
    second, _ = train(root, root / 'second', 2, seed=1)
    with pytest.raises(AssertionError):
        assert_equal_weights(first, second)


@pytest.mark.parametrize('workers, persistent', [(0, False), (2, False), (2, True)])
def test_restart_reads_changed_files(root, workers, persistent):
    """From the iteration after the change on, every sample shows the new files; order is kept."""

    def rewrite(runner):
        write_masks(root, 1)
        runner.train_loop.restart_data()

    _, expected = train(root, root / 'plain', 6)
    _, seen = train(root, root / 'restarted', 6, hook=Watch(2, rewrite), workers=workers,
                    persistent=persistent, **(dict(prefetch_factor=4) if workers else {}))
    assert seen.ids == expected.ids
    assert seen.labels == [[0, 0]] * 3 + [[1, 1]] * 3


@pytest.mark.parametrize('persistent', [False, True])
def test_failures_of_dropped_batches_do_not_surface(root, persistent):
    """Batches prepared ahead while files were missing are dropped with their errors."""

    class MakeMasks(Watch):

        def before_train(self, runner):
            with pytest.raises(RuntimeError, match='not found'):
                next(runner.train_loop.dataloader_iterator)
            write_masks(root, 1)
            runner.train_loop.restart_data()

    shutil.rmtree(root / 'masks')
    _, seen = train(root, root / 'work', 2, hook=MakeMasks(), workers=2, persistent=persistent)
    assert seen.labels == [[1, 1]] * 2


def test_an_unreadable_image_stops_the_training(root):
    (root / 'images' / 'c.png').write_bytes(b'no image')
    with pytest.raises(RuntimeError, match=r"image 'c' \(.*c\.png\)"):
        train(root, root / 'work', 6)


def test_validates_at_the_interval(root, monkeypatch):
    runner = make_runner(root, root / 'work', 5)
    loop = runner.build_train_loop(dict(type='ResumableIterLoop', max_iters=5, val_interval=2))
    runner._train_loop = loop
    runs = []

    class ValLoop:

        def run(self):
            runs.append(loop.iter)

    monkeypatch.setattr(Runner, 'val_loop', ValLoop())
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    loop.run()
    assert runs == [2, 4, 5]


def test_needs_a_position_sampler(root):
    runner = make_runner(root, root / 'work', 2, sampler='InfiniteSampler')
    with pytest.raises(ValueError, match="type='PositionSampler'.*found InfiniteSampler"):
        runner.build_train_loop(runner._train_loop)
