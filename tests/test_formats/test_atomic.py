from __future__ import annotations

import os

import pytest

from mmseg_dhr.formats import atomic_path


def test_old_file_survives_a_failure(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text('half')
        raise RuntimeError
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_replaces_whole(tmp_path):
    path = tmp_path / 'deep' / 'a.txt'
    with atomic_path(path) as temporary:
        temporary.write_text('new')
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == 'new'


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    with atomic_path(tmp_path / 'a') as temporary:
        temporary.write_text('')
    (tmp_path / 'b').write_text('')
    assert os.stat(tmp_path / 'a').st_mode == os.stat(tmp_path / 'b').st_mode
