from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from mmseg_dhr.models.backbones import read_mxnet_params

TYPES = [np.float32, np.float64, np.float16, np.uint8, np.int32, np.int8, np.int64]
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA


def array_bytes(array, version=V2, storage=0):
    """One array as MXNet's NDArray::Save writes it; version None: of 2016, without a magic."""
    if version is None:
        shape = struct.pack(f'<I{array.ndim}I', array.ndim, *array.shape)
    else:
        shape = struct.pack('<I', version) + (
            struct.pack('<i', storage) if version != V1 else b'') + struct.pack(
                f'<I{array.ndim}q', array.ndim, *array.shape)
    return shape + struct.pack('<3i', 1, 0, TYPES.index(array.dtype.type)) + array.tobytes()


def file_bytes(arrays, names, magic=0x112):
    """A whole file: list of arrays, list of names."""
    parts = [struct.pack('<3Q', magic, 0, len(arrays)), *arrays, struct.pack('<Q', len(names))]
    return b''.join([*parts, *(struct.pack('<Q', len(n)) + n.encode() for n in names)])


def write_params(path, params, version=None):
    """Write a dict of arrays in the way of MXNet."""
    path.write_bytes(file_bytes([array_bytes(np.asarray(a), version) for a in params.values()],
                                list(params)))


@pytest.mark.parametrize('version', [None, V1, V2, V3])
def test_every_version_and_type(tmp_path, version) -> None:
    arrays = {f'arg:{t.__name__}': (np.arange(6).reshape(1, 2, 3) - 2).astype(t) for t in TYPES}
    write_params(tmp_path / 'x.params', arrays, version)
    read = read_mxnet_params(tmp_path / 'x.params')
    assert list(read) == list(arrays)
    for name, expected in arrays.items():
        assert torch.equal(read[name], torch.from_numpy(expected))
        read[name].add_(1)  # owns its memory


def test_known_bytes(tmp_path) -> None:
    """A file by hand: one float32 array [1.5, -2] named `w`, of 2016 and of today."""
    head = bytes.fromhex('1201000000000000' '0000000000000000' '0100000000000000')
    old = '01000000' '02000000'  # rank, dimension
    new = 'c9fa93f9' '00000000' '01000000' '0200000000000000'  # magic, dense, rank, dimension
    rest = '01000000' '00000000' '00000000' '0000c03f' '000000c0'  # CPU, 0, float32, values
    names = '0100000000000000' '0100000000000000' '77'
    for shape in (old, new):
        (tmp_path / 'x.params').write_bytes(head + bytes.fromhex(shape + rest + names))
        assert read_mxnet_params(tmp_path / 'x.params')['w'].tolist() == [1.5, -2]


def test_arrays_that_are_none(tmp_path) -> None:
    none = [struct.pack('<I', 0), struct.pack('<2I', V1, 0), struct.pack('<IiI', V2, 0, 0)]
    after = array_bytes(np.float32([7]))
    scalar = array_bytes(np.float32(3), V3)
    (tmp_path / 'x').write_bytes(file_bytes([*none, scalar, after], list('abcde')))
    read = read_mxnet_params(tmp_path / 'x')
    assert [read[n].numel() for n in 'abc'] == [0, 0, 0]
    assert read['d'].shape == () and read['d'] == 3 and read['e'].tolist() == [7]


def test_empty_list_and_empty_array(tmp_path) -> None:
    (tmp_path / 'x').write_bytes(file_bytes([], []))
    assert read_mxnet_params(tmp_path / 'x') == {}
    write_params(tmp_path / 'x', {'a': np.zeros((0, 3), np.float32)}, V2)
    assert read_mxnet_params(tmp_path / 'x')['a'].shape == (0, 3)


GOOD = array_bytes(np.float32([1, 2]))
BAD = {
    'its first bytes': file_bytes([GOOD], ['a'], magic=0x113),
    'more bytes are needed': file_bytes([GOOD], ['a'])[:-3],
    'sparse': file_bytes([array_bytes(np.float32([1]), V2, storage=1)], ['a']),
    'type 12': file_bytes([GOOD.replace(struct.pack('<3i', 1, 0, 0), struct.pack('<3i', 1, 0, 12))],
                          ['a']),
    'dimensions': file_bytes([struct.pack('<I', 77) + GOOD], ['a']),
    'shape': file_bytes([struct.pack('<IiIq', V2, 0, 1, -4) + bytes(20)], ['a']),
    '1 arrays, but 2 names': file_bytes([GOOD], ['a', 'b']),
    'decode': file_bytes([GOOD], ['a'])[:-1] + b'\xff',
}


@pytest.mark.parametrize('reason', BAD)
def test_damaged_files(tmp_path, reason) -> None:
    (tmp_path / 'x.params').write_bytes(BAD[reason])
    with pytest.raises(ValueError, match=rf'x\.params: not a whole parameter file.*{reason}'):
        read_mxnet_params(tmp_path / 'x.params')


@pytest.mark.parametrize('at', [16, 36])
def test_huge_counts_read_nothing(tmp_path, at) -> None:
    """Of arrays, or of a dimension: no memory is asked for."""
    content = bytearray(file_bytes([array_bytes(np.float32([1, 2]))], ['a']))
    content[at:at + 8] = struct.pack('<Q', 1 << 60)
    (tmp_path / 'x').write_bytes(content)
    with pytest.raises(ValueError, match='not a whole'):
        read_mxnet_params(tmp_path / 'x')


def test_every_cut_is_noticed(tmp_path) -> None:
    content = file_bytes([GOOD, array_bytes(np.int64([[3]]), None)], ['a', 'bc'])
    for end in range(len(content)):
        (tmp_path / 'x').write_bytes(content[:end])
        with pytest.raises(ValueError, match='not a whole'):
            read_mxnet_params(tmp_path / 'x')
