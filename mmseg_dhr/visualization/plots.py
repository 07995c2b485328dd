"""Plots as PNG files."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ..formats import atomic_path

__all__ = ['new_figure', 'plot_lines', 'plot_matrix', 'save_figure']


def plot_lines(path: str | Path, x: Sequence[float], lines: Mapping[str, Sequence[float]],
               xlabel: str, ylabel: str) -> None:
    """Draw lines over a common axis.

    Args:
        path: PNG to write.
        x (Sequence[float]): Positions.
        lines (Mapping): Name -> values, as many as ``x``.
        xlabel, ylabel (str): Names of the axes.
    """
    figure = new_figure(6, 4)
    axes = figure.add_subplot()
    for name, values in lines.items():
        axes.plot(x, values, marker='o', label=name)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


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
    figure = new_figure(size, size)
    axes = figure.add_subplot()
    axes.imshow(values, vmin=-1, vmax=1, cmap='RdBu_r')
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if value == value:
                axes.text(column, row, f'{value:.1f}', ha='center', va='center', fontsize=6)
    axes.set_title(title)
    save_figure(figure, path)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    # Not pyplot: it would choose a backend for the whole process.
    return Figure(figsize=(width, height), layout='constrained')


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format='png')
