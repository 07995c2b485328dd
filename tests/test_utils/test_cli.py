from __future__ import annotations

import argparse

import pytest
import torch
from mmengine.config import Config

from mmseg_dhr.utils import UserError, load_config
from mmseg_dhr.utils.cli import (
    add_common_arguments,
    add_launcher_arguments,
    config_from,
    prepare_cpu_launch,
)

READS = """
data_root = '{{$MMSEG_DHR_DATA:data/default}}'
train_dataloader = dict(dataset=dict(data_root=data_root, masks='{work_dir}/masks'))
scales = (1, '{work_dir}')
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv('MMSEG_DHR_DATA', '')  # remembers the value of before
    monkeypatch.delenv('MMSEG_DHR_DATA')


@pytest.fixture
def config(tmp_path) -> str:
    (tmp_path / 'some_name.py').write_text(READS)
    return str(tmp_path / 'some_name.py')


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_common_arguments(parser)
    add_launcher_arguments(parser)
    return parser.parse_args(arguments)


def test_arguments_reach_the_config(config):
    cfg = config_from(parse(config, '--work-dir', 'w', '--data-root', 'my/data',
                            '--cfg-options', 'scales=[1,2]', 'train_dataloader.batch_size=3'))
    assert cfg.work_dir == 'w'
    assert cfg.train_dataloader.dataset == dict(data_root='my/data', masks='w/masks')
    assert (cfg.scales, cfg.train_dataloader.batch_size) == ([1, 2], 3)


def test_defaults(config):
    args = parse(config)
    cfg = config_from(args)
    assert cfg.work_dir.endswith('work_dirs/some_name')
    assert cfg.train_dataloader.dataset.data_root == 'data/default'
    assert cfg.scales == (1, cfg.work_dir)
    assert (args.overwrite, args.debug, args.launcher) == (False, False, 'none')


def test_data_root_that_the_config_does_not_read(tmp_path):
    (tmp_path / 'a.py').write_text("data_root = 'fixed'")
    with pytest.raises(UserError, match='`--data-root` has no effect'):
        load_config(str(tmp_path / 'a.py'), data_root='my/data')


def test_missing_config():
    with pytest.raises(UserError, match='absent.py: no such config file'):
        load_config('absent.py')


@pytest.mark.parametrize(('text', 'line', 'why'), [
    ('x = 1\ny = dict(a=[1)\n', 2, 'SyntaxError: closing parenthesis'),
    ('x = 1\nz = x.y\n', 2, "AttributeError: 'int' object has no attribute 'y'"),
    ('_base_ = []\nfrom mmseg_dhr.datasets import use_photos\nuse_photos({}, dataroot="a")\n', 3,
     "TypeError: .*unexpected keyword argument 'dataroot'"),
    ('x = 1\n\ndef f():\n    return {}["k"]\n\ny = f()\n', 4, 'KeyError: k'),
])
@pytest.mark.parametrize('of_a_base', [False, True])
def test_a_config_that_cannot_be_read(tmp_path, monkeypatch, text, line, why, of_a_base):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'bad.py').write_text(text)
    (tmp_path / 'good.py').write_text("_base_ = ['bad.py']\nx = 2\n")
    with pytest.raises(UserError, match=rf'^{tmp_path}/bad\.py, line {line}: .*\({why}') as error:
        load_config('good.py' if of_a_base else 'bad.py')
    assert error.value.__cause__ is not None  # for --debug


def test_what_the_package_says_of_a_config_stays(tmp_path):
    (tmp_path / 'a.py').write_text(
        '_base_ = []\nfrom mmseg_dhr.datasets import ClassIndex\nClassIndex(("a", ), 1)\n')
    with pytest.raises(ValueError, match='^Expected `background_index`'):
        load_config(tmp_path / 'a.py')


@pytest.mark.parametrize('option', ['hooks.5.x', 'hooks.a', 'steps.x', 'nested.steps.x'])
def test_an_option_that_does_not_fit(tmp_path, option):
    (tmp_path / 'a.py').write_text(
        'steps = 3\nhooks = [dict(a=1)]\nnested = dict(steps=3)\n')
    with pytest.raises(UserError, match=rf'^`--cfg-options {option}=1` does not fit .*Error: '):
        load_config(tmp_path / 'a.py', options={option: 1})


def test_local_rank_has_both_spellings(config):
    assert parse(config, '--local-rank', '1').local_rank == 1
    assert parse(config, '--local_rank', '1').local_rank == 1


def test_positive_int(config, capsys):
    parser = argparse.ArgumentParser()
    add_common_arguments(parser, batch_size=4, threads=True)
    args = parser.parse_args(['--threads', '3'])
    assert (args.batch_size, args.threads) == (4, 3)
    for text in ('0', '-1', '1.5', 'many'):
        with pytest.raises(SystemExit):
            parser.parse_args(['--batch-size', text])
        assert capsys.readouterr().err.endswith(
            f'--batch-size: expected a whole number of at least 1, but got {text}\n')


def test_cpu_launch(monkeypatch):
    backends = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.distributed, 'init_process_group', backends.append)
    norm = dict(type='SyncBN')
    cfg = Config(dict(launcher='pytorch', find_unused_parameters=True, model=dict(
        type='M', norm_cfg=norm, heads=[dict(norm_cfg=norm), dict(type='H', nested=(norm, ))])))
    prepare_cpu_launch(cfg)
    assert backends == ['gloo']
    assert cfg.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel', broadcast_buffers=False, find_unused_parameters=True,
        device_ids=None)
    assert 'SyncBN' not in cfg.pretty_text and cfg.pretty_text.count('BN') == 3


@pytest.mark.parametrize(('launcher', 'cuda'), [('none', False), ('pytorch', True)])
def test_launch_that_needs_no_help(monkeypatch, launcher, cuda):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
    cfg = Config(dict(launcher=launcher, model=dict(type='SyncBN')))
    prepare_cpu_launch(cfg)
    assert cfg.to_dict() == dict(launcher=launcher, model=dict(type='SyncBN'))
