from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmseg_dhr.formats import read_mask, write_mask

PALETTE = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]


@pytest.mark.parametrize('mask', [
    np.array([[0, 1, 2], [255, 1, 0]], np.uint8),
    np.arange(256, dtype=np.int64).reshape(8, 32),
    np.full((1, 1), 255, np.int32),
    np.zeros((3, 5), np.uint8).T,
])
def test_round_trip(tmp_path, mask):
    path = tmp_path / 'new' / 'a.png'
    write_mask(path, mask, PALETTE)
    found = read_mask(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, mask)
    assert list(path.parent.iterdir()) == [path]  # no temporary file stays


def test_colours_are_visible(tmp_path):
    """The PNG shows each class in its colour, without any knowledge of this package."""
    write_mask(tmp_path / 'a.png', np.array([[0, 1, 2, 255]]), PALETTE)
    with Image.open(tmp_path / 'a.png') as image:
        assert image.mode == 'P'
        colours = np.array(image.convert('RGB'))[0].tolist()
    assert colours == [*PALETTE, [224, 224, 192]]


def test_reads_grey(tmp_path):
    Image.fromarray(np.array([[3, 255]], np.uint8)).save(tmp_path / 'a.png')
    np.testing.assert_array_equal(read_mask(tmp_path / 'a.png'), [[3, 255]])


def test_zero_that_is_no_class(tmp_path):
    write_mask(tmp_path / 'a.png', np.array([[0, 1, 2, 254, 255]]), PALETTE)
    found = read_mask(tmp_path / 'a.png', reduce_zero_label=True)
    assert found.dtype == np.uint8 and found.tolist() == [[255, 0, 1, 253, 255]]


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'I;16', '1'])
def test_rejects_other_modes(tmp_path, mode):
    Image.new(mode, (4, 3)).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match=rf"a\.png: expected a mask of label indices.*'{mode}'"):
        read_mask(tmp_path / 'a.png')


def test_rejects_damaged(tmp_path):
    path = tmp_path / 'a.png'
    write_mask(path, np.random.default_rng(0).integers(0, 3, (64, 64)), PALETTE)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match='not a complete image'):
        read_mask(path)
    path.write_bytes(b'no image')
    with pytest.raises(ValueError, match='not a complete image'):
        read_mask(path)
    with pytest.raises(FileNotFoundError):
        read_mask(tmp_path / 'absent.png')


@pytest.mark.parametrize('mask, message', [
    (np.zeros((2, 2, 3), np.uint8), 'shape'), (np.zeros((2, 2)), 'float64'),
    (np.array([[256]]), '256'), (np.array([[-1]]), '-1'), (np.zeros((0, 2), np.uint8), 'shape')])
def test_rejects_what_is_no_mask(tmp_path, mask, message):
    with pytest.raises(ValueError, match=message):
        write_mask(tmp_path / 'a.png', mask, PALETTE)
    assert not (tmp_path / 'a.png').exists()


@pytest.mark.parametrize('palette', [[[0, 0]], [[0, 0, 256]], [[0, 0, 0]] * 257, []])
def test_rejects_what_is_no_palette(tmp_path, palette):
    with pytest.raises(ValueError, match='palette'):
        write_mask(tmp_path / 'a.png', np.zeros((2, 2), np.uint8), palette)
