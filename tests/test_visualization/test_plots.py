from __future__ import annotations

import runpy
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mmseg_dhr.visualization import plot_lines, plot_matrix
from mmseg_dhr.visualization.pictures import Picture, plot_pictures


def pixels(path) -> np.ndarray:
    return np.array(Image.open(path).convert('RGB')).astype(int)


def share_of(image: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((np.abs(image - colour).sum(-1) < 30).mean())


def test_lines(tmp_path) -> None:
    one, two = tmp_path / 'new' / 'one.png', tmp_path / 'two.png'
    plot_lines(one, [0, 1, 2], {'a': [1, 2, 3]}, 'x', 'y')
    plot_lines(two, [0, 1, 2], {'a': [1, 2, 3], 'b': [3, 2, 1]}, 'x', 'y')
    blue, orange = (31, 119, 180), (255, 127, 14)  # matplotlib's first two colours
    assert share_of(pixels(one), blue) > 0.001 and share_of(pixels(one), orange) == 0
    assert share_of(pixels(two), blue) > 0.001 and share_of(pixels(two), orange) > 0.001


def test_matrix(tmp_path) -> None:
    plot_matrix(tmp_path / 'm.png', [[1, -1], [float('nan'), 0]], ['a', 'b'], 'title')
    image = pixels(tmp_path / 'm.png')
    red, blue = share_of(image, (103, 0, 31)), share_of(image, (5, 48, 97))  # ends of RdBu
    assert red > 0.05 and blue == pytest.approx(red, rel=0.1)
    plot_matrix(tmp_path / 'n.png', [[1, -1], [-1, 0]], ['a', 'b'], 'title')
    assert share_of(pixels(tmp_path / 'n.png'), (5, 48, 97)) == pytest.approx(2 * blue, rel=0.1)


def test_pictures(tmp_path) -> None:
    green = np.zeros((20, 30, 3), np.uint8) + np.array([0, 255, 0], np.uint8)
    red = green[..., [1, 0, 2]]
    plot_pictures(tmp_path / 'p.png', [[Picture('a', green), Picture('b', red, (3, 4))],
                                       [Picture('c', green)]])
    image = pixels(tmp_path / 'p.png')
    once, twice = share_of(image, (255, 0, 0)), share_of(image, (0, 255, 0))
    assert twice == pytest.approx(2 * once, rel=0.1) and once > 0.1
    left = image[:, :image.shape[1] // 2]
    assert share_of(left, (255, 0, 0)) == 0
    # The cross is in the top left of the second picture.
    rows, columns = np.where(np.abs(image - (255, 0, 0)).sum(-1) < 30)
    top, left_edge = rows.min(), columns.min()
    y = top + (4.5 / 20) * (rows.max() - top)
    x = left_edge + (3.5 / 30) * (columns.max() - left_edge)
    assert image[round(y), round(x)].sum() < 60
    with pytest.raises(ValueError, match='at least one picture'):
        plot_pictures(tmp_path / 'none.png', [])


def test_no_backend_is_chosen(tmp_path, monkeypatch) -> None:
    """The module is loaded and draws where pyplot, which chooses one, cannot be imported."""
    monkeypatch.delattr(matplotlib, 'pyplot', raising=False)
    monkeypatch.setitem(sys.modules, 'matplotlib.pyplot', None)
    plots = runpy.run_module(plot_lines.__module__)
    plots['plot_lines'](tmp_path / 'a.png', [0, 1], {'a': [0, 1]}, 'x', 'y')
    assert (tmp_path / 'a.png').is_file()


@pytest.mark.parametrize('draw', [
    lambda path: plot_lines(path, [0, 1], {'a': [0, 1]}, 'x', 'y'),
    lambda path: plot_matrix(path, [[0]], ['a'], 'title'),
    lambda path: plot_pictures(path, [[Picture('a', np.zeros((4, 4, 3), np.uint8))]])])
def test_a_picture_is_whole_or_as_it_was(tmp_path, monkeypatch, draw) -> None:
    def fail(figure: Figure, path: Path, **_: object) -> None:
        Path(path).write_bytes(b'half')
        raise OSError('disk full')

    (tmp_path / 'a.png').write_bytes(b'old')
    monkeypatch.setattr(Figure, 'savefig', fail)
    with pytest.raises(OSError, match='disk full'):
        draw(tmp_path / 'a.png')
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b'old']
