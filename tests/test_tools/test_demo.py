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


def test_config_exists(demo, repo_root):
    for end in ('', '_base', '_full'):
        assert (repo_root / demo.CONFIG.replace('.py', f'{end}.py')).is_file()
