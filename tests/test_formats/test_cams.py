from __future__ import annotations

import numpy as np
import pytest

from mmseg_dhr.formats import read_cam, write_cam


@pytest.mark.parametrize('n', [0, 1, 3])
def test_round_trip(tmp_path, n):
    maps = np.random.default_rng(0).random((n, 5, 7), np.float32)
    write_cam(tmp_path / 'a.npz', np.arange(n) + 4, maps)
    cam = read_cam(tmp_path / 'a.npz')
    assert cam.labels.dtype == np.int64 and cam.maps.dtype == np.float16
    np.testing.assert_array_equal(cam.labels, np.arange(n) + 4)
    np.testing.assert_allclose(cam.maps, maps, atol=5e-4)
    assert [path.name for path in tmp_path.iterdir()] == ['a.npz']


@pytest.mark.parametrize('labels, maps', [
    ([1, 2], np.zeros((1, 2, 2))), ([1], np.zeros((2, 2))), ([1], np.full((1, 2, 2), 1.5)),
    ([1], np.full((1, 2, 2), -.1)), ([1], np.full((1, 2, 2), np.nan))])
def test_rejects_bad_values(tmp_path, labels, maps):
    with pytest.raises(ValueError, match=r'a\.npz: expected'):
        write_cam(tmp_path / 'a.npz', labels, maps)
    assert not list(tmp_path.iterdir())


def test_rejects_other_files(tmp_path):
    path = tmp_path / 'a.npz'
    np.savez(path, labels=np.array([1]))
    with pytest.raises(ValueError, match='`labels` and `cam`'):
        read_cam(path)
    np.savez(path, labels=np.array([{}], object), cam=np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match='could not read'):
        read_cam(path)
    write_cam(path, [1], np.zeros((1, 2, 2)))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match='could not read'):
        read_cam(path)
    path.write_bytes(b'')
    with pytest.raises(ValueError, match='could not read'):
        read_cam(path)
    with open(path, 'wb') as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match='could not read'):
        read_cam(path)
    with pytest.raises(FileNotFoundError):
        read_cam(tmp_path / 'absent.npz')
