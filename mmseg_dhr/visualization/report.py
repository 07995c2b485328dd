"""One self-contained HTML page of images and tables."""
from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import cv2
import numpy as np

from ..formats import atomic_path

__all__ = ['write_report']

Row = tuple[str, Mapping[str, np.ndarray]]
Table = tuple[str, Sequence[object], Sequence[Sequence[object]]]

_CSS = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --dim: #777; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1.5rem;
  max-width: 1400px; color: #1c1c1e; background: #fff; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
ul.notes { padding-left: 1.2rem; }
ul.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1rem; }
ul.legend i { display: inline-block; width: .9em; height: .9em; margin-right: .4em;
  border: 1px solid var(--line); border-radius: 2px; vertical-align: -.1em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
thead th { background: var(--soft); }
.scroll { overflow-x: auto; }
.images td, .images th { text-align: left; vertical-align: top; border: 0; padding: .25rem; }
.images tbody th { font: 12px ui-monospace, monospace; color: var(--dim); min-width: 7rem; }
.images img { display: block; max-width: 320px; height: auto; image-rendering: pixelated; }
@media (prefers-color-scheme: dark) { body { color: #e8e8ea; background: #17171a; } }
"""


def write_report(out_html: str | os.PathLike,
                 title: str,
                 rows: Iterable[Row],
                 tables: Iterable[Table] = (),
                 notes: Iterable[str] = (),
                 legend: Mapping[str, Sequence[int]] | None = None) -> None:
    """Write one HTML file that needs no other: images are embedded, all text is escaped.

    The file is written atomically and row by row, so that ``rows`` may be a generator.

    Args:
        out_html (str | PathLike): File to write.
        title (str): Heading of the page.
        rows (Iterable): One ``(image_id, {column: uint8 RGB (H, W, 3)})`` per line of images. The
            first row's columns make the header; a column that a row lacks stays empty.
        tables (Iterable): ``(caption, header, rows)`` each, shown above the images.
        notes (Iterable[str]): Sentences below the heading.
        legend (Mapping, optional): Class name to (r, g, b).

    Raises:
        ValueError: If an image is not uint8 RGB, or a row has a column that the first has not.
    """
    with atomic_path(out_html) as temporary, open(temporary, 'w', encoding='utf-8') as page:
        page.write('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
                   '<meta name="viewport" content="width=device-width, initial-scale=1">'
                   f'<title>{escape(title)}</title><style>{_CSS}</style></head>\n'
                   f'<body><h1>{escape(title)}</h1>\n')
        page.write(_list('notes', [escape(note) for note in notes]))
        for caption, header, body in tables:
            page.write(_table(caption, header, body))
        page.write(_legend(legend or {}))
        for line in _image_lines(rows):
            page.write(line)
        page.write('</body></html>\n')


def _list(name: str, items: Sequence[str]) -> str:
    lines = ''.join(f'<li>{item}</li>' for item in items)
    return f'<ul class="{name}">{lines}</ul>\n' if lines else ''


def _legend(legend: Mapping[str, Sequence[int]]) -> str:
    return _list('legend', [
        f'<i style="background:rgb({",".join(str(int(c)) for c in colour)})"></i>{escape(name)}'
        for name, colour in legend.items()])


def _table(caption: str, header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    head = ''.join(f'<th scope="col">{escape(str(cell))}</th>' for cell in header)
    body = ''.join('<tr>' + ''.join(f'<td>{escape(str(cell))}</td>' for cell in row) + '</tr>\n'
                   for row in rows)
    return (f'<h2>{escape(caption)}</h2>\n<div class="scroll"><table>'
            f'<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n')


def _image_lines(rows: Iterable[Row]) -> Iterable[str]:
    columns: list[str] | None = None
    for image_id, images in rows:
        if columns is None:
            columns = list(images)
            head = ''.join(f'<th scope="col">{escape(name)}</th>' for name in columns)
            yield ('<h2>Images</h2>\n<div class="scroll"><table class="images"><thead><tr><th></th>'
                   f'{head}</tr></thead><tbody>\n')
        unknown = [name for name in images if name not in columns]
        if unknown:
            raise ValueError(f'{image_id}: expected the columns {columns} of the first row, '
                             f'but got {unknown} too.')
        cells = ''.join(f'<td>{_image(images[name], image_id, name) if name in images else ""}</td>'
                        for name in columns)
        yield f'<tr><th scope="row">{escape(image_id)}</th>{cells}</tr>\n'
    if columns is not None:
        yield '</tbody></table></div>\n'


def _image(image: np.ndarray, image_id: str, name: str) -> str:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f'{image_id}, {name}: expected an uint8 RGB image (H, W, 3), '
                         f'but got {image.dtype} {image.shape}.')
    encoded, data = cv2.imencode('.png', np.ascontiguousarray(image[..., ::-1]))
    if not encoded:
        raise ValueError(f'{image_id}, {name}: cannot be encoded as PNG, shape {image.shape}.')
    text = base64.b64encode(data.tobytes()).decode('ascii')
    height, width = image.shape[:2]
    return (f'<img src="data:image/png;base64,{text}" width="{width}" height="{height}" '
            f'loading="lazy" alt="{escape(name)} of {escape(image_id)}">')
