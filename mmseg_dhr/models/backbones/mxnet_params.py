"""Reading ``.params`` files of MXNet without MXNet.

Such a file is a list of arrays and a list of names, little-endian, and holds no code::

    u64 0x112, u64 0
    u64 count, then each array
    u64 count, then each name: u64 length, characters

An array is written in one of three ways, told apart by its first u32:

    0xF993FAC9 or 0xF993FACA   i32 storage (0 = dense), u32 rank, i64 per dimension
    0xF993FAC8                                          u32 rank, i64 per dimension
    anything else                                that is the rank, u32 per dimension

and goes on with i32 device, i32 device id, i32 type, values. In the second and third way an array
of rank 0 ends after its rank: there is none.
"""
from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ['read_mxnet_params']

_LIST_MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_TYPES = {0: '<f4', 1: '<f8', 2: '<f2', 3: '|u1', 4: '<i4', 5: '|i1', 6: '<i8'}


class _Reader:
    """Takes values off the front of a buffer and never looks past its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        left = len(self._data) - self._at
        if not 0 <= size <= left:
            raise ValueError(f'{size} more bytes are needed at byte {self._at}, {left} are left')
        self._at += size
        return self._data[self._at - size:self._at]

    def numbers(self, kind: str, count: int = 1) -> tuple[int, ...]:
        return struct.unpack(f'<{count}{kind}', self.take(count * struct.calcsize(kind)))

    def number(self, kind: str) -> int:
        return self.numbers(kind)[0]


def read_mxnet_params(path: str | Path) -> dict[str, Tensor]:
    """Read all arrays of a file that ``mxnet.nd.save`` wrote, of any version.

    Args:
        path: The file, for example ``ilsvrc-cls_rna-a1_cls1000_ep-0001.params``.

    Returns:
        dict: Name, such as ``arg:conv1a_weight``, to array.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another kind.
    """
    reader = _Reader(Path(path).read_bytes())
    try:
        if reader.numbers('Q', 2)[0] != _LIST_MAGIC:
            raise ValueError('its first bytes are others')
        arrays = [_array(reader) for _ in range(reader.number('Q'))]
        names = [reader.take(reader.number('Q')).decode() for _ in range(reader.number('Q'))]
        if len(names) != len(arrays):
            raise ValueError(f'{len(arrays)} arrays, but {len(names)} names')
    except ValueError as error:  # also of bytes that are no text
        raise ValueError(f'{path}: not a whole parameter file of MXNet ({error}).') from error
    return dict(zip(names, arrays, strict=True))


def _array(reader: _Reader) -> Tensor:
    shape = _shape(reader)
    if shape is None:
        return torch.empty(0)
    reader.numbers('i', 2)  # the device it was on
    kind = reader.number('i')
    if kind not in _TYPES:
        raise ValueError(f'an array of type {kind}, known are {sorted(_TYPES)}')
    dtype = np.dtype(_TYPES[kind])
    values = np.frombuffer(reader.take(math.prod(shape) * dtype.itemsize), dtype)
    return torch.from_numpy(values.reshape(shape).copy())


def _shape(reader: _Reader) -> tuple[int, ...] | None:
    """Shape of the next array; None = there is no array."""
    first = reader.number('I')
    if first in (_V2, _V3) and reader.number('i') != 0:
        raise ValueError('a sparse array')
    known = first in (_V1, _V2, _V3)
    rank = reader.number('I') if known else first
    if rank > 32:  # more than numpy knows: not a rank
        raise ValueError(f'an array of {rank} dimensions')
    shape = reader.numbers('q' if known else 'I', rank)
    if min(shape, default=0) < 0:
        raise ValueError(f'an array of shape {shape}')
    return None if rank == 0 and first != _V3 else shape
