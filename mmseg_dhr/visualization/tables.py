"""Tables for a terminal."""
from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ['format_table']


def format_table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Align columns with spaces: the first to the left, the others to the right.

    Args:
        header (Sequence): Column names.
        rows (Iterable[Sequence]): Cells, as many per row as there are columns.

    Returns:
        str: Lines without a newline at the end.

    Raises:
        ValueError: If a row has another number of cells.

    Example:
        >>> print(format_table(['class', 'IoU'], [['cat', 81.5], ['sofa', 7]]))
        class   IoU
        -----------
        cat    81.5
        sofa      7
    """
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    for line in lines:
        if len(line) != len(header):
            raise ValueError(f'Expected {len(header)} cells in a row, but got {len(line)}: {line}.')
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = ['  '.join(cell.ljust(width) if i == 0 else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
             for line in lines]
    rule = '-' * (sum(widths) + 2 * (len(widths) - 1))
    return '\n'.join([texts[0], rule, *texts[1:]])
