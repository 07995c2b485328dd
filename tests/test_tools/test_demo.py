"""What the demo says of its figures; the demo itself runs for minutes and is run by hand."""
from __future__ import annotations

import importlib.util

import pytest


@pytest.fixture
def demo(repo_root):
    """The module tools/demo.py."""
    spec = importlib.util.spec_from_file_location('demo', repo_root / 'tools/demo.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_share_of_the_gap(demo):
    assert demo.describe_gap(40.0, 46.0, 50.0) == 'DHR closes 60 % of the gap.'
    assert demo.describe_gap(40.0, 38.0, 50.0) == 'DHR closes -20 % of the gap.'


@pytest.mark.parametrize('full', [41.0, 40.0, 35.0])
def test_no_share_of_a_gap_that_is_noise(demo, full):
    assert 'too small' in demo.describe_gap(40.0, 40.5, full)


def test_last_figure(demo):
    output = ('| mIoU: 40.00 |\n2024 Iter(test) [120/120]    aAcc: 90.10  mIoU: 51.20  '
              'base_mIoU: 60.00  mAcc: 70.00\n')
    assert demo.last_figure(output, 'mIoU') == 51.2
    assert demo.last_figure(output, 'base_mIoU') == 60.0
    with pytest.raises(SystemExit, match='printed no novel_mIoU'):
        demo.last_figure(output, 'novel_mIoU')


def test_train_and_test(demo, tmp_path, monkeypatch):
    """Tests what the training wrote last, with the CRF."""
    commands = []

    def run(*command):
        commands.append(command)
        if command[0] == 'tools/train.py':
            note = tmp_path / 'work_dirs/scenes_r18_base/last_checkpoint'
            note.parent.mkdir(parents=True)
            note.write_text('runs/iter_9.pth\n')
            return 'Iter(val) mIoU: 10.0'
        return 'Iter(test) mIoU: 33.50'

    monkeypatch.setattr(demo, 'ROOT', tmp_path)
    monkeypatch.setattr(demo, 'run', run)
    config = 'configs/dhr/scenes_r18_base.py'
    assert demo.train_and_test(config) == 33.5
    assert commands == [('tools/train.py', config),
                        ('tools/test.py', config, 'runs/iter_9.pth', '--crf')]
    assert demo.last_checkpoint(config) == 'runs/iter_9.pth'


def test_config_exists(demo, repo_root):
    for end in ('', '_base', '_full'):
        assert (repo_root / demo.CONFIG.replace('.py', f'{end}.py')).is_file()
