"""The allow-list lets numpy and plain containers through; nothing runs before a refusal."""
from __future__ import annotations

import collections
import os
import pickle

import numpy as np
import pytest

from mmseg_dhr.formats import UnsafePickleError, load_npy, load_pickle

HARMLESS = {
    '2007_000032': np.array([0, 1, 1], np.float32),
    np.int32(2007000033): np.arange(6).reshape(2, 3).T,
    'nested': [(1, 2.5, None, True, b'bytes'), {'a': [3]}],
    'scalar': np.float64(1.5),
    'ordered': collections.OrderedDict(a=1),
    'empty': np.zeros((0, 3)),
}


class Attack:
    """A pickle that would make a folder when it is loaded the ordinary way."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def assert_same(found, expected):
    assert list(found) == list(expected)
    for key, value in expected.items():
        if isinstance(value, np.ndarray):
            assert found[key].dtype == value.dtype
            np.testing.assert_array_equal(found[key], value)
        else:
            assert found[key] == value and type(found[key]) is type(value)


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_harmless(tmp_path, protocol):
    path = tmp_path / 'a.pkl'
    path.write_bytes(pickle.dumps(HARMLESS, protocol))
    assert_same(load_pickle(path), HARMLESS)


@pytest.mark.parametrize('old, new', [(b'numpy._core', b'numpy.core'),
                                      (b'numpy.core', b'numpy._core')])
def test_reads_either_numpy(tmp_path, old, new):
    """Files of numpy 1 name ``numpy.core``, those of numpy 2 ``numpy._core``."""
    path = tmp_path / 'a.pkl'
    content = pickle.dumps({'a': np.arange(3), 'b': np.float32(2)}, 2)
    path.write_bytes(content.replace(old, new))
    found = load_pickle(path)
    np.testing.assert_array_equal(found['a'], np.arange(3))
    assert found['b'] == 2


def test_load_npy(tmp_path):
    np.save(tmp_path / 'dict.npy', HARMLESS)
    assert_same(load_npy(tmp_path / 'dict.npy'), HARMLESS)
    np.save(tmp_path / 'plain.npy', np.arange(4.))
    np.testing.assert_array_equal(load_npy(tmp_path / 'plain.npy'), np.arange(4.))
    np.save(tmp_path / 'objects.npy', np.array([1, 'a', None], object))
    assert load_npy(tmp_path / 'objects.npy').tolist() == [1, 'a', None]


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_runs_nothing(tmp_path, protocol):
    made = tmp_path / 'made'
    content = pickle.dumps({'a': Attack(made)}, protocol)
    path = tmp_path / 'a.pkl'
    path.write_bytes(content)
    with pytest.raises(UnsafePickleError, match=r'a\.pkl: .* asks for (posix|nt|os)\.mkdir'):
        load_pickle(path)
    assert not made.exists()
    pickle.loads(content)
    assert made.exists()  # the attack is a real one


def test_npy_runs_nothing(tmp_path):
    made = tmp_path / 'made'
    np.save(tmp_path / 'a.npy', np.array({'a': Attack(made)}, object))
    with pytest.raises(UnsafePickleError):
        load_npy(tmp_path / 'a.npy')
    assert not made.exists()


@pytest.mark.parametrize('value', [print, eval, np.load, np.random.RandomState(0), os.path.join])
def test_refuses_other_globals(tmp_path, value):
    path = tmp_path / 'a.pkl'
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(UnsafePickleError):
        load_pickle(path)


def test_damaged(tmp_path):
    np.save(tmp_path / 'a.npy', HARMLESS)
    content = (tmp_path / 'a.npy').read_bytes()
    for end in (0, 5, 60, len(content) - 20):
        (tmp_path / 'a.npy').write_bytes(content[:end])
        with pytest.raises(ValueError, match=r'a\.npy: not a whole'):
            load_npy(tmp_path / 'a.npy')
    (tmp_path / 'a.pkl').write_bytes(b'\x80\x04garbage')
    with pytest.raises(ValueError, match=r'a\.pkl: not a whole pickle'):
        load_pickle(tmp_path / 'a.pkl')
    with pytest.raises(FileNotFoundError):
        load_npy(tmp_path / 'absent.npy')
