"""Each official layout, as old and new Python, numpy and torch pickle it; nothing is run."""
from __future__ import annotations

import collections
import io
import os
import pickle

import numpy as np
import pytest
import torch

from mmseg_dhr.formats import UnsafePickleError, load_npy, write_cam
from mmseg_dhr.formats.seeds import FLAVOURS, matching_flavours, read_content, read_seeds
from mmseg_dhr.formats.torch_files import TensorUnpickler

MAPS = np.arange(12, dtype=np.float32).reshape(2, 2, 3) / 16
SMALL = MAPS[:, ::2, ::2] / 2
CAM = torch.from_numpy(SMALL.copy())
# Foreground classes 0 and 14, which are the labels 1 and 15.
LAYOUTS = dict(
    psa=({0: MAPS[0], 14: MAPS[1]}, [0, 14]),
    seam=({np.int64(0): MAPS[0], np.int64(14): MAPS[1]}, [0, 14]),
    mctformer=({0: MAPS[0], 14: MAPS[1].astype(np.float16)}, [0, 14]),
    irnet=(dict(keys=torch.tensor([0, 14]), cam=CAM, high_res=MAPS), [0, 14]),
    advcam=(dict(keys=torch.tensor([0, 14]), cam=CAM, high_res=torch.from_numpy(MAPS)), [0, 14]),
    puzzlecam=(dict(keys=np.array([1, 15]), cam=CAM, hr_cam=MAPS), [1, 15]),
    puzzlecam_rw=(dict(keys=np.array([0, 1, 15]), rw=MAPS), [1, 15]),
    rsepm=(dict(keys=np.array([0, 1, 15]), seed=MAPS), [1, 15]),
)


def save(path, content, protocol=4):
    """What ``np.save`` or ``pickle.dump`` writes with that protocol."""
    header = b''
    if path.suffix == '.npy':
        content = np.array(content, object)
        np.save(path, np.array(None, object))
        header = path.read_bytes().partition(b'\n')[0] + b'\n'
    path.write_bytes(header + pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize('protocol', range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize('name', LAYOUTS)
def test_layouts(tmp_path, name, protocol):
    content, keys = LAYOUTS[name]
    for suffix in ('.npy', '.pkl'):
        path = save(tmp_path / f'a{suffix}', content, protocol)
        seeds = read_seeds(path, FLAVOURS[name])
        assert seeds.keys.tolist() == keys and seeds.keys.dtype == np.int64
        np.testing.assert_array_equal(seeds.maps, MAPS)
        assert seeds.has_zero == (name in ('puzzlecam_rw', 'rsepm'))
        found = matching_flavours(read_content(path))
        assert name in found and len({FLAVOURS[one].layout for one in found}) == 1


def test_layouts_that_differ_are_told_apart():
    found = {name: matching_flavours(content) for name, (content, _) in LAYOUTS.items()}
    assert found['psa'] == found['seam'] == found['mctformer'] == ['psa', 'seam', 'mctformer']
    assert found['irnet'] == found['advcam'] == ['irnet', 'advcam']
    for name in ('puzzlecam', 'puzzlecam_rw', 'rsepm'):
        assert found[name] == [name]
    for other in ([1], {'a': MAPS[0]}, dict(keys=[1])):
        assert matching_flavours(other) == []


@pytest.mark.parametrize('old, new', [(b'numpy._core', b'numpy.core'),
                                      (b'numpy.core', b'numpy._core')])
def test_either_numpy(tmp_path, old, new):
    path = save(tmp_path / 'a.pkl', {0: MAPS[0], np.int64(3): MAPS[1]}, 2)
    path.write_bytes(path.read_bytes().replace(old, new))
    seeds = read_seeds(path, FLAVOURS['psa'])
    assert seeds.keys.tolist() == [0, 3]
    np.testing.assert_array_equal(seeds.maps, MAPS)


def test_np_save_itself(tmp_path):
    np.save(tmp_path / 'a.npy', LAYOUTS['irnet'][0])
    np.testing.assert_array_equal(read_seeds(tmp_path / 'a.npy', FLAVOURS['irnet']).maps, MAPS)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors(tmp_path, dtype):
    """A view into a larger storage, of a tensor that was trained."""
    maps = torch.arange(24).reshape(3, 2, 4).to(dtype).requires_grad_()[1:, :, ::2]
    np.save(tmp_path / 'a.npy', dict(keys=torch.tensor([1, 2]), cam=maps.detach(), x=maps[0, 0, 0]
                                     .detach().requires_grad_()))
    seeds = read_seeds(tmp_path / 'a.npy', FLAVOURS['irnet'])
    np.testing.assert_array_equal(seeds.maps, [[[8, 10], [12, 14]], [[16, 18], [20, 22]]])


class OnGPU:
    """A tensor as a process pickles it whose tensors are on a GPU."""

    def __reduce__(self):
        content = io.BytesIO()
        torch.save(CAM.storage(), content, _use_new_zipfile_serialization=False)
        there = content.getvalue().replace(b'X\x03\x00\x00\x00cpu', b'X\x06\x00\x00\x00cuda:0')
        assert there != content.getvalue()
        return torch._utils._rebuild_tensor_v2, (
            Numbers(there), 0, tuple(CAM.shape), CAM.stride(), False, collections.OrderedDict())


class Numbers:
    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.content, )


@pytest.mark.filterwarnings('ignore:TypedStorage')
def test_tensors_of_a_gpu(tmp_path):
    np.save(tmp_path / 'a.npy', dict(keys=torch.tensor([1, 2]), cam=OnGPU()))
    seeds = read_seeds(tmp_path / 'a.npy', FLAVOURS['irnet'])
    np.testing.assert_array_equal(seeds.maps, SMALL)


def test_without_high_resolution(tmp_path):
    np.save(tmp_path / 'a.npy', dict(keys=torch.tensor([2, 1]), cam=CAM))
    seeds = read_seeds(tmp_path / 'a.npy', FLAVOURS['irnet'])
    assert seeds.keys.tolist() == [2, 1]
    np.testing.assert_array_equal(seeds.maps, SMALL)


def test_our_own(tmp_path):
    write_cam(tmp_path / 'a.npz', np.array([1, 15]), MAPS)
    seeds = read_seeds(tmp_path / 'a.npz', FLAVOURS['cams'])
    assert seeds.keys.tolist() == [1, 15] and not seeds.has_zero
    np.testing.assert_array_equal(seeds.maps, MAPS)


@pytest.mark.parametrize('name', ['psa', 'irnet'])
def test_empty(tmp_path, name):
    np.save(tmp_path / 'a.npy', {})
    seeds = read_seeds(tmp_path / 'a.npy', FLAVOURS[name])
    assert seeds.keys.shape == (0, ) and seeds.maps.shape[0] == 0


@pytest.mark.parametrize(('name', 'content', 'message'), [
    ('psa', LAYOUTS['irnet'][0], r"a dict \{class: map\}, but found a dict with the keys \['keys'"),
    ('irnet', LAYOUTS['psa'][0], r'`keys`, `cam` and `high_res`, but found .* \[0, 14\]'),
    ('psa', [1, 2], 'but found list'),
    ('psa', {0: MAPS[0], 1: SMALL[0]}, r'maps of one size, but found .*\(1, 2\).*\(2, 3\)'),
    ('psa', {0: 'map'}, r'maps \(n, h, w\), but found int64 \(1,\) and <U3 \(1,\)'),
    ('psa', {0: MAPS}, r'and float32 \(1, 2, 2, 3\)'),
    ('irnet', dict(keys=[1], cam=MAPS), r'found int64 \(1,\) and float32 \(2, 2, 3\)'),
    ('irnet', dict(keys=[1, 2, 3], cam=MAPS), r'found int64 \(3,\)'),
    ('irnet', dict(keys=[1., 2.], cam=MAPS), 'found float64'),
    ('irnet', dict(keys=[2, 2], cam=MAPS), r'each class once, but found \[2, 2\]'),
])
def test_other_content(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=rf'a\.pkl: .*{message}'):
        read_seeds(save(tmp_path / 'a.pkl', content), FLAVOURS[name])


class Attack:
    """A pickle that would make a folder when it is loaded the ordinary way."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path, )


class InTensor(Attack):
    """The same where a tensor keeps its numbers."""
    new_format = False

    def __reduce__(self):
        content = io.BytesIO()
        torch.save(Attack(self.path), content, _use_new_zipfile_serialization=self.new_format)
        return torch.storage._load_from_bytes, (content.getvalue(), )


class InZippedTensor(InTensor):
    new_format = True


@pytest.mark.parametrize('suffix', ['.npy', '.pkl'])
@pytest.mark.parametrize('kind', [Attack, InTensor, InZippedTensor])
@pytest.mark.parametrize('name', LAYOUTS)
def test_runs_nothing(tmp_path, name, kind, suffix):
    content = dict(LAYOUTS[name][0])
    made = tmp_path / 'made'
    content[list(content)[-1]] = kind(made)
    path = save(tmp_path / f'a{suffix}', content)
    with pytest.raises(UnsafePickleError, match=r'a\.\w+: .* asks for (posix|nt|os)\.mkdir'):
        read_seeds(path, FLAVOURS[name])
    assert not made.exists()
    if kind is Attack:
        pickle.loads(pickle.dumps(content))
        assert made.exists()  # the attack is a real one


def test_npz_runs_nothing(tmp_path):
    made = tmp_path / 'made'
    np.savez(tmp_path / 'a.npz', labels=np.array([1]), cam=np.array([Attack(made)], object))
    with pytest.raises(ValueError, match=r'a\.npz: expected a whole npz'):
        read_seeds(tmp_path / 'a.npz', FLAVOURS['cams'])
    assert not made.exists()


def test_what_is_no_storage(tmp_path):
    class Other:
        def __reduce__(self):
            content = io.BytesIO()
            torch.save([1, 2], content)
            return torch.storage._load_from_bytes, (content.getvalue(), )

    np.save(tmp_path / 'a.npy', {0: Other()})
    with pytest.raises(ValueError, match='the numbers of a tensor, but found list'):
        load_npy(tmp_path / 'a.npy', TensorUnpickler)


def test_tensors_are_asked_for(tmp_path):
    """Label files have none: there the names of torch stay off the list."""
    np.save(tmp_path / 'a.npy', {0: CAM})
    with pytest.raises(UnsafePickleError, match=r'torch\._utils\._rebuild_tensor_v2'):
        load_npy(tmp_path / 'a.npy')
