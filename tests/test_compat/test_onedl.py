"""Tests of the adjustments for the maintained forks of OpenMMLab."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.runner import checkpoint

from mmseg_dhr.compat import forbid_unchecked_pickles, onedl, register_onedl_distributions

_FORKS = {'onedl-mmsegmentation', 'onedl-mmdetection'}
_OFFICIAL = {'mmsegmentation', 'mmdet'}


@pytest.mark.parametrize(
    ('installed', 'expected'),
    [
        (_FORKS, {'mmseg': 'onedl-mmsegmentation', 'mmdet': 'onedl-mmdetection'}),
        ({'onedl-mmsegmentation'}, {'mmseg': 'onedl-mmsegmentation'}),
        (_OFFICIAL, {}),
        (_FORKS | _OFFICIAL, {}),
        (set(), {}),
    ],
)
def test_maps_to_the_forks_only_where_they_are_the_ones_installed(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], expected: dict[str, str]
) -> None:
    monkeypatch.setattr(onedl, '_is_installed', installed.__contains__)
    monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', 'mmsegmentation')
    monkeypatch.setitem(MODULE2PACKAGE, 'mmdet', 'mmdet')
    before = dict(MODULE2PACKAGE)
    assert register_onedl_distributions() == expected
    assert before | expected == MODULE2PACKAGE


@pytest.mark.parametrize(
    'base',
    ['mmseg::_base_/default_runtime.py', 'mmdet::_base_/default_runtime.py'],
)
def test_prefix_of_a_config_is_resolved(tmp_path: Path, base: str) -> None:
    path = tmp_path / 'config.py'
    path.write_text(f'_base_ = {base!r}\n')
    assert Config.fromfile(path).default_scope == base.split('::')[0]


class TestForbidUncheckedPickles:
    def test_official_mmengine_is_left_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(checkpoint, '_safe_torch_load', raising=False)
        assert forbid_unchecked_pickles() is False
        assert not hasattr(checkpoint, '_safe_torch_load')

    @pytest.mark.skipif(torch.__version__ < (2, 6), reason='torch checks by default since 2.6')
    def test_refused_file_is_not_read_again(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def careless(file: object, **kwargs: object) -> object:
            return torch.load(file, weights_only=False)

        monkeypatch.setattr(checkpoint, '_safe_torch_load', careless, raising=False)
        path = tmp_path / 'path_object.pth'
        torch.save({'folder': Path('x')}, path)
        assert checkpoint._safe_torch_load(path)['folder'] == Path('x')
        assert forbid_unchecked_pickles() is True
        with pytest.raises(pickle.UnpicklingError):
            checkpoint._safe_torch_load(path, map_location='cpu')
