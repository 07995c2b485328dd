"""Several pictures with titles in one PNG file."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .plots import new_figure, save_figure

__all__ = ['Picture', 'plot_pictures']


class Picture(NamedTuple):
    """An image with a title.

    Attributes:
        title: Above it.
        image: uint8 RGB (H, W, 3).
        point: (x, y) in pixels to be marked with a cross.
    """
    title: str
    image: np.ndarray
    point: tuple[int, int] | None = None


def plot_pictures(path: str | Path, rows: Sequence[Sequence[Picture]]) -> None:
    """Draw rows of pictures.

    Args:
        path: PNG to write.
        rows: At least one row with at least one picture; rows may differ in length.

    Raises:
        ValueError: If there is no picture.
    """
    columns = max((len(row) for row in rows), default=0)
    if not columns:
        raise ValueError('Expected at least one picture.')
    height, width = rows[0][0].image.shape[:2]
    figure = new_figure(3 * columns, len(rows) * (3 * height / width + 0.4))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(grid, rows, strict=True):
        for axes in line:
            axes.set_axis_off()
        for axes, picture in zip(line, row, strict=False):  # a short row leaves blanks
            axes.imshow(picture.image)
            axes.set_title(picture.title, fontsize=9)
            if picture.point is not None:
                axes.plot(*picture.point, marker='x', color='white', markersize=9,
                          markeredgewidth=4)
                axes.plot(*picture.point, marker='x', color='black', markersize=9,
                          markeredgewidth=2)
    save_figure(figure, path)
