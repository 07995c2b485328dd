"""Plots as PNG files."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

__all__ = ['plot_lines', 'plot_matrix']


def plot_lines(path: str | Path, x: Sequence[float], lines: Mapping[str, Sequence[float]],
               xlabel: str, ylabel: str) -> None:
    """Draw lines over a common axis.

    Args:
        path: PNG to write.
        x (Sequence[float]): Positions.
        lines (Mapping): Name -> values, as many as ``x``.
        xlabel, ylabel (str): Names of the axes.
    """
    figure = _figure(6, 4)
    axes = figure.add_subplot()
    for name, values in lines.items():
        axes.plot(x, values, marker='o', label=name)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def plot_matrix(path: str | Path, values: Sequence[Sequence[float]], names: Sequence[str],
                title: str) -> None:
    """Draw a square matrix in [-1, 1] with its entries; NaN stays blank.

    Args:
        path: PNG to write.
        values: (N, N).
        names (Sequence[str]): Of rows and columns.
        title (str): Above the picture.
    """
    size = max(4.0, 0.45 * len(names) + 2)
    figure = _figure(size, size)
    axes = figure.add_subplot()
    axes.imshow(values, vmin=-1, vmax=1, cmap='RdBu_r')
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if value == value:
                axes.text(column, row, f'{value:.1f}', ha='center', va='center', fontsize=6)
    axes.set_title(title)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    # Not pyplot: it would choose a backend for the whole process.
    return Figure(figsize=(width, height), layout='constrained')


def _save(figure: Figure, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
