"""The commands that fill a folder, one file per image, on six tiny scenes."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_dhr.formats import Manifest, read_cam, read_features, read_mask

REPO_ROOT = Path(__file__).resolve().parents[2]
CONFIG = REPO_ROOT / 'configs/dhr/scenes_r18.py'
IDS = [f'train_{i:05d}' for i in range(6)]
TRAINING = [
    'train_dataloader.dataset.dataset.pipeline.2.transforms.0.scale=(64,64)',
    'train_dataloader.dataset.dataset.pipeline.2.transforms.1.crop_size=(64,64)',
    'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False', 'train_cfg.max_iters=4', 'train_cfg.val_interval=4',
    'param_scheduler.0.end=4', 'custom_hooks.1.warmup_iters=2', 'default_hooks.logger.interval=1'
]


class Run(NamedTuple):
    """A finished training: config and its options, work directory."""
    arguments: list[str]
    work_dir: Path

    @property
    def checkpoint(self) -> Path:
        return self.work_dir / 'iter_4.pth'


@pytest.fixture(scope='module')
def trained(tmp_path_factory, subprocess_env) -> Run:
    """Four iterations on six scenes of 64 px, two of them warm-up."""
    folder = tmp_path_factory.mktemp('stages')
    options = ['model.segmentor.data_preprocessor.size=(64,64)']
    for key in ('train_dataloader.dataset', 'pseudo_label_dataset', 'val_dataloader',
                'test_dataloader'):
        options += [f'{key}.dataset.{value}' for value in (
            f'data_root={folder / "scenes"}', 'num_train=6', 'num_val=2', 'size=64')]
    arguments = [str(CONFIG), '--work-dir', str(folder / 'run'), '--cfg-options', *options]
    done = subprocess.run(
        [sys.executable, str(REPO_ROOT / 'tools/train.py'), *arguments, *TRAINING], cwd=folder,
        env={**subprocess_env, 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True,
        check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return Run(arguments, folder / 'run')


@pytest.fixture
def tags(trained) -> dict[str, set[int]]:
    """Label indices of each image: what its true mask shows, without background and border."""
    folder = trained.work_dir.parent / 'scenes/SegmentationClass'
    return {i: set(np.unique(read_mask(folder / f'{i}.png')).tolist()) - {0, 255} for i in IDS}


@pytest.fixture
def stage(run_tool, trained):
    """Runs a command of the stages on the training's config and checkpoint."""
    def run(tool: str, out: str, *more: object) -> int:
        weights = [] if tool == 'extract_uss_features' else [trained.checkpoint]
        config, *options = trained.arguments
        # Options of the config last: they take all that follows.
        return run_tool(tool, config, *weights, out, *more, *options)
    return run


def one_line(capfd) -> str:
    """The only line that a failed command prints."""
    text = capfd.readouterr().err
    assert text.startswith('error: ') and text.count('\n') == 1, text
    return text


STAGES = {
    'make_cams': ('.npz', ['--scales', '1.0', '0.5'], ['--scales', '1.0'], 'scales was [1.0, 0.5]'),
    'make_base_masks': ('.png', [], ['--threads', '2', '--background', '0.5'],
                        'background_constant was 0.3 and is now 0.5'),
    'extract_uss_features': ('.safetensors', [], ['--flip'], 'flip was False and is now True'),
    'make_pseudo_labels': ('.png', ['--stride', '4'], ['--stride', '2'], 'stride was 4'),
}


@pytest.mark.parametrize('tool', STAGES)
def test_going_on_and_other_settings(stage, tool, capfd):
    suffix, settings, others, difference = STAGES[tool]
    names = [f'{i}{suffix}' for i in IDS]
    out = Path('out')

    def times() -> dict[str, int]:
        assert sorted(file.name for file in out.iterdir()) == ['manifest.json', *names]
        return {name: (out / name).stat().st_mtime_ns for name in names}

    assert stage(tool, 'out', *settings) == 0
    first, content = times(), (out / names[3]).read_bytes()
    assert Manifest.load(out).complete and Manifest.load(out).count == 6
    # What is there stays, what is missing is made, as it was.
    assert stage(tool, 'out', *settings) == 0
    assert times() == first
    (out / names[3]).unlink()
    assert stage(tool, 'out', *settings) == 0
    assert {name for name, time in times().items() if time != first[name]} == {names[3]}
    assert (out / names[3]).read_bytes() == content
    # Other settings.
    second = times()
    capfd.readouterr()
    assert stage(tool, 'out', *others) == 2
    line = one_line(capfd)
    assert 'out: its 6' in line and difference in line and '--overwrite' in line
    assert times() == second
    assert stage(tool, 'out', *others, '--overwrite') == 0
    assert not set(times().values()) & set(second.values())
    assert Manifest.load(out).complete


def test_cams(stage, tags):
    assert stage('make_cams', 'cams', '--scales', '1.0') == 0
    for image_id in IDS:
        labels, maps = read_cam(f'cams/{image_id}.npz')
        assert set(labels.tolist()) == tags[image_id]
        assert maps.shape == (len(labels), 16, 16) and maps.max() > 0.9


def test_base_masks_of_stored_cams_are_the_same(stage, run_tool, trained, tags):
    assert stage('make_cams', 'cams', '--scales', '1.0') == 0
    assert stage('make_base_masks', 'direct') == 0
    config, *options = trained.arguments
    assert run_tool('make_base_masks', config, 'cams', 'stored', *options) == 0
    assert stage('make_base_masks', 'rough', '--no-crf') == 0
    for image_id in IDS:
        direct, stored, rough = (read_mask(f'{folder}/{image_id}.png')
                                 for folder in ('direct', 'stored', 'rough'))
        assert direct.shape == (64, 64) and set(np.unique(direct)) <= {0, *tags[image_id]}
        assert np.array_equal(direct, stored)
        assert set(np.unique(rough)) <= {0, *tags[image_id]}
    assert any(Path('direct', f'{i}.png').read_bytes() != Path('rough', f'{i}.png').read_bytes()
               for i in IDS)


@pytest.mark.parametrize(('source', 'options', 'named'), [
    ('cams', ['--scales', '1.0'], '--scales'),
    ('cams', ['--no-flip', '--batch-size', '2', '--no-crf'], '--no-flip, --batch-size'),
    ('masks', ['--no-flip', '--background', '1', '--no-crf'], '--no-flip, --background, --no-crf'),
    ('masks', ['--background-power', '2'], '--background-power'),
])
def test_options_without_effect_on_a_folder(run_tool, stage, trained, capfd, source, options,
                                            named):
    assert stage('make_cams', 'cams', '--scales', '1.0') == 0
    config, *rest = trained.arguments
    assert run_tool('make_base_masks', config, 'cams', 'masks', *rest) == 0
    capfd.readouterr()
    assert run_tool('make_base_masks', config, source, 'out', *options, *rest) == 2
    assert f'{source}: {named} would have no effect' in one_line(capfd)
    assert run_tool('make_base_masks', config, 'masks', 'copied', *rest) == 0
    for image_id in IDS:
        np.testing.assert_array_equal(read_mask(f'copied/{image_id}.png'),
                                      read_mask(f'masks/{image_id}.png'))


def test_the_commands_make_what_training_made(run_tool, stage, trained):
    config, *options = trained.arguments
    warmup = trained.work_dir / 'warmup.pth'
    assert run_tool('make_base_masks', config, warmup, 'base', '--scales', '1.0',
                    *options) == 0
    assert stage('extract_uss_features', 'uss') == 0
    for made, folder in (('base', 'base_masks'), ('uss', 'uss_features')):
        kept = trained.work_dir / folder
        assert Manifest.load(made) == Manifest.load(kept)
        for file in kept.iterdir():
            assert Path(made, file.name).read_bytes() == file.read_bytes()
    assert read_features(f'uss/{IDS[0]}.safetensors').shape[1:] == (16, 16)


def test_pseudo_labels_are_scored(run_tool, stage, trained, tags, capfd):
    assert stage('make_pseudo_labels', 'masks', '--stride', '4', '--batch-size', '4') == 0
    for image_id in IDS:
        mask = Image.open(f'masks/{image_id}.png')
        assert mask.mode == 'P' and mask.size == (64, 64)
        assert set(np.unique(mask)) <= {0, *tags[image_id]}
    config, *options = trained.arguments
    assert run_tool('evaluate_masks', 'masks', '--config', config, '--jobs', '1', '--json',
                    'scores.json', *options) == 0
    assert 'masks: 6 masks scored' in capfd.readouterr().out
    scores = json.loads(Path('scores.json').read_text())
    assert 0 < scores['all']['miou'] < 100 and not scores['missing']


def test_report(run_tool, trained, capfd):
    config, *options = trained.arguments
    assert run_tool('analysis_tools/dhr_report', config, '--examples', '2', '--stride', '4',
                    '--out', 'report', *options, 'randomness.seed=5') == 0
    figures = json.loads(Path('report/report.json').read_text())
    output = capfd.readouterr().out
    assert 'Pseudo-labels of 6 training images' in output
    assert 'seed 0, R_C' in output  # the training's, whatever the config says now
    for name in ('M_base', 'R_C: M_dh', 'after recursion: M_dh'):
        assert name in figures and name in output
    page = Path('report/index.html').read_text()
    assert page.count('prediction') >= 2 and 'M_base' in page


def test_figures_of_a_report_are_whole_or_as_they_were(run_tool, trained, monkeypatch):
    Path('report').mkdir()
    Path('report/report.json').write_text('old')

    def fail(path: Path, text: str) -> None:
        path.write_bytes(b'half')
        raise OSError('disk full')

    config, *options = trained.arguments
    with monkeypatch.context() as patch, pytest.raises(OSError, match='disk full'):
        patch.setattr(Path, 'write_text', fail)
        run_tool('analysis_tools/dhr_report', config, '--examples', '1', '--stride', '4', '--out',
                 'report', *options)
    assert [path.read_text() for path in Path('report').iterdir()] == ['old']


@pytest.mark.parametrize(('tool', 'arguments', 'message'), [
    ('make_cams', ['absent.pth', 'out'], 'absent.pth: no such checkpoint'),
    ('make_base_masks', ['absent.pth', 'out'], 'absent.pth: no such checkpoint'),
    ('make_base_masks', ['.', 'out'], f'6 images ({IDS[0]}, '),
    ('analysis_tools/dhr_report', ['--checkpoint', 'absent.pth'], 'absent.pth: no such checkpoint'),
])
def test_what_is_missing_is_named(run_tool, trained, capfd, tool, arguments, message):
    config, *options = trained.arguments
    assert run_tool(tool, config, *arguments, *options) == 2
    text = capfd.readouterr().err
    assert message in text.split('error: ')[-1] and 'Traceback' not in text
    assert not list(Path('.').glob('out/*.p*'))


def test_a_report_needs_a_training(run_tool, capfd):
    assert run_tool('analysis_tools/dhr_report', CONFIG, '--work-dir', 'empty') == 2
    assert 'nothing was trained there' in one_line(capfd)


def test_timm_weights(run_tool, monkeypatch, capfd):
    import timm

    from mmseg_dhr.models import ViTUSS
    make = timm.create_model
    name = 'vit_tiny_patch16_224'
    asked = []

    def create(model, pretrained=False, **settings):
        asked.append((model, pretrained))
        torch.manual_seed(len(asked))
        return make(model.split('.')[0], pretrained=False, **settings)

    monkeypatch.setattr(timm, 'create_model', create)
    assert run_tool('misc/save_timm_weights', f'{name}.some_tag', 'weights/vit.safetensors') == 0
    assert asked == [(f'{name}.some_tag', True)]
    assert 'wrote weights/vit.safetensors' in capfd.readouterr().out
    encoder = ViTUSS(name, 'weights/vit.safetensors')
    before = encoder.vit.blocks[0].attn.qkv.weight.clone()
    encoder.init_weights()
    torch.manual_seed(1)
    saved = make(name, num_classes=0)
    assert torch.equal(encoder.vit.blocks[0].attn.qkv.weight, saved.blocks[0].attn.qkv.weight)
    assert not torch.equal(encoder.vit.blocks[0].attn.qkv.weight, before)


def test_timm_without_network(run_tool, monkeypatch, capfd):
    def create(*args, **kwargs):
        raise OSError('no route')

    monkeypatch.setattr('timm.create_model', create)
    assert run_tool('misc/save_timm_weights', 'vit', 'weights.safetensors') == 2
    assert 'Could not get the weights of vit (no route)' in one_line(capfd)
    assert not Path('weights.safetensors').exists()
