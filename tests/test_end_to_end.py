"""A training of configs/dhr/scenes_r18.py in small: tags -> M_base -> DHR, killed and resumed."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmseg_dhr.formats import Manifest
from mmseg_dhr.utils import load_config

WARMUP, ITERATIONS = 3, 7
SCENES = dict(num_train=8, num_val=2, size=64)


class Kill(Hook):
    """Stops the process after an iteration, before its checkpoint is written."""
    priority = 'LOW'

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.iteration:
            raise KeyboardInterrupt


# mmengine formats the whole config for every checkpoint, which takes longer than all the rest.
FAST = 'from mmengine.config import Config; Config.pretty_text = property(repr)\n'


@pytest.fixture(scope='module', autouse=True)
def _unformatted_configs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'pretty_text', property(repr))
        yield


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> Path:
    from mmseg_dhr.datasets.scenes import SceneParameters, write_scenes

    return write_scenes(tmp_path_factory.mktemp('scenes') / 'data', SceneParameters(**SCENES),
                        progress=False)


@pytest.fixture(scope='module')
def small_config(repo_root, scenes) -> Callable[..., Config]:
    """The config with few channels and iterations."""

    def config(work_dir: Path, **options) -> Config:
        segmentor = 'model.segmentor.'
        channels = {'backbone.base_channels': 8, 'backbone.stem_channels': 8,
                    'decode_head.in_channels': 64, 'decode_head.channels': 16,
                    'decode_head.c1_in_channels': 8, 'decode_head.c1_channels': 4,
                    'data_preprocessor.size': (64, 64)}
        train = 'train_dataloader.dataset.dataset.'
        small = {f'{segmentor}{name}': value for name, value in channels.items()}
        small.update({f'{split}_dataloader.dataset.{deeper}{name}': value
                      for split, deeper in (('train', 'dataset.'), ('val', ''))
                      for name, value in dict(SCENES, data_root=str(scenes)).items()})
        small.update({
            'model.cam_head.in_channels': 64,
            'model.uss_encoder.frequencies': 8,
            f'{train}pipeline.2.transforms.0.scale': (64, 64),
            f'{train}pipeline.2.transforms.1.crop_size': (64, 64),
            'train_dataloader.batch_size': 4,
            'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False,
            'val_dataloader.num_workers': 0, 'val_dataloader.persistent_workers': False,
            'custom_hooks.1.warmup_iters': WARMUP,
            'param_scheduler.0.end': ITERATIONS,
            'train_cfg.max_iters': ITERATIONS, 'train_cfg.val_interval': ITERATIONS,
            'default_hooks.checkpoint.interval': 1, 'default_hooks.checkpoint.max_keep_ckpts': 9,
            'default_hooks.logger.interval': 1, 'log_level': 'WARNING',
            'env_cfg.cudnn_benchmark': False, **options})
        return load_config(repo_root / 'configs/dhr/scenes_r18.py', str(work_dir), options=small)

    return config


def train(config: Config, resume: bool = False, kill_after: int | None = None) -> Runner:
    config.resume = resume
    config.experiment_name = f'{Path(config.work_dir).name}_{resume}_{id(config)}'
    runner = Runner.from_cfg(config)
    if kill_after is not None:
        runner.register_hook(Kill(kill_after))
    try:
        runner.train()
    finally:
        # Workers end here. Left to the garbage collector, they are waited for in vain.
        runner.train_loop.dataloader_iterator = runner.train_dataloader._iterator = None
    return runner


@pytest.fixture(scope='module')
def whole(small_config, tmp_path_factory) -> Path:
    """Work directory of a training that nothing interrupts."""
    work_dir = tmp_path_factory.mktemp('whole')
    train(small_config(work_dir))
    return work_dir


def assert_same_end(work_dir: Path, expected: Path) -> None:
    ours, theirs = (torch.load(folder / f'iter_{ITERATIONS}.pth', weights_only=False)
                    for folder in (work_dir, expected))
    assert list(ours['state_dict']) == list(theirs['state_dict'])
    for name, value in theirs['state_dict'].items():
        assert torch.equal(ours['state_dict'][name], value), name
    states = ours['optimizer']['state'], theirs['optimizer']['state']
    for index, state in states[1].items():
        for name, value in state.items():
            assert torch.equal(states[0][index][name], value), (index, name)
    for folder, suffix in (('base_masks', 'png'), ('uss_features', 'safetensors')):
        for path in (expected / folder).glob(f'*.{suffix}'):
            assert path.read_bytes() == (work_dir / folder / path.name).read_bytes()


def test_what_a_training_leaves(whole) -> None:
    for folder in ('base_masks', 'uss_features'):
        manifest = Manifest.load(whole / folder)
        assert manifest.complete and manifest.count == SCENES['num_train']
    states = [torch.load(whole / f'iter_{i}.pth', weights_only=False)['state_dict']
              for i in (WARMUP - 1, WARMUP, WARMUP + 1, ITERATIONS)]
    head, classifier = 'segmentor.decode_head.conv_seg.weight', 'cam_head.classifier.weight'
    # Tags alone train no decode head; then M_dh does.
    assert torch.equal(states[0][head], states[1][head])
    assert not torch.equal(states[1][head], states[2][head])
    assert not torch.equal(states[0][classifier], states[1][classifier])
    assert not torch.equal(states[2][classifier], states[3][classifier])
    assert all(value.isfinite().all() for value in states[3].values())


@pytest.mark.parametrize(('kill_after', 'workers', 'overlap'), [
    (2, 0, False),  # in the warm-up: iteration 2 is done again
    (WARMUP, 1, False),  # the masks are made, the checkpoint of that iteration is not
    (WARMUP + 1, 0, True),  # the first checkpoint to go on from is that of the end of the warm-up
    (6, 1, True),
])
def test_killed_and_resumed_ends_with_the_same_weights(small_config, whole, tmp_path, kill_after,
                                                       workers, overlap) -> None:
    options = {'train_dataloader.num_workers': workers,
               'train_dataloader.persistent_workers': workers > 0, 'model.overlap': overlap}
    with pytest.raises(KeyboardInterrupt):
        train(small_config(tmp_path, **options), kill_after=kill_after)
    assert (tmp_path / 'last_checkpoint').read_text().endswith(f'iter_{kill_after - 1}.pth')
    torch.rand(3)
    train(small_config(tmp_path, **options), resume=True)
    assert_same_end(tmp_path, whole)


def test_killed_while_the_masks_are_written(small_config, whole, tmp_path, monkeypatch) -> None:
    from mmseg_dhr.apis import base_masks

    write, written = base_masks.write_mask, []

    def stop_at_fifth(path, *args):
        written.append(path)
        if len(written) >= 5:  # the next may have begun before the stop is noticed
            raise KeyboardInterrupt
        write(path, *args)

    monkeypatch.setattr(base_masks, 'write_mask', stop_at_fifth)
    with pytest.raises(KeyboardInterrupt):
        train(small_config(tmp_path))
    assert not Manifest.load(tmp_path / 'base_masks').complete
    written.clear()
    monkeypatch.setattr(base_masks, 'write_mask',
                        lambda path, *args: written.append(path) or write(path, *args))
    train(small_config(tmp_path), resume=True)
    assert len(written) == 4  # as many were kept
    assert_same_end(tmp_path, whole)


@pytest.mark.parametrize('source', ['student', 'teacher'])
def test_moving_average_survives_too(small_config, tmp_path, source) -> None:
    """EMAHook swaps weights around checkpoints; the USS encoder is in none of them."""
    hook = dict(type='EMAHook', momentum=0.1)
    ends = []
    for name, stop in (('whole', None), ('killed', 5)):
        options = {'custom_hooks.1.source': source, 'train_cfg.val_interval': 4}
        config = small_config(tmp_path / name, **options)
        config.custom_hooks.append(hook)
        if stop:
            with pytest.raises(KeyboardInterrupt):
                train(config, kill_after=stop)
            config = small_config(tmp_path / name, **options)
            config.custom_hooks.append(hook)
        train(config, resume=bool(stop))
        ends.append(torch.load(tmp_path / name / f'iter_{ITERATIONS}.pth', weights_only=False))
    for part in ('state_dict', 'ema_state_dict'):
        assert not any('uss_encoder' in name for name in ends[0][part])
        for name, value in ends[0][part].items():
            assert torch.equal(ends[1][part][name], value), name


def test_two_processes(small_config, tmp_path, repo_root) -> None:
    """Both make their share of masks and features, and train on all of them."""
    config = small_config(Path('work'), **{
        'train_cfg.max_iters': 3, 'train_cfg.val_interval': 3, 'custom_hooks.1.warmup_iters': 1,
        'train_dataloader.batch_size': 2, 'default_hooks.checkpoint.interval': 3,
        'model.overlap': True})
    (tmp_path / 'config.py').write_text(
        ''.join(f'{key} = {value!r}\n' for key, value in config.to_dict().items()))
    # tools/train.py as it is, but for the formatting
    (tmp_path / 'train.py').write_text(
        FAST + 'import runpy\n'
        f"runpy.run_path({str(repo_root / 'tools/train.py')!r}, run_name='__main__')\n")
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
               'train.py', 'config.py', '--launcher', 'pytorch', '--work-dir', 'work']
    environment = {**os.environ, 'PYTHONPATH': str(repo_root), 'CUDA_VISIBLE_DEVICES': '',
                   'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True,
                          check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for folder in ('base_masks', 'uss_features'):
        assert Manifest.load(tmp_path / 'work' / folder).count == SCENES['num_train']
    state = torch.load(tmp_path / 'work/iter_3.pth', weights_only=False)['state_dict']
    assert all(value.isfinite().all() for value in state.values())
