from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mmseg_dhr.visualization import format_table, write_report


class Page(HTMLParser):
    """Elements and visible text; every element that opens must close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened, self.tags, self.texts, self.images = [], [], [], []
        self.feed(text)
        assert not self.opened

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == 'img':
            self.images.append(dict(attrs))
        elif tag != 'meta':
            self.opened.append(tag)

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def report(tmp_path, **kwargs) -> Page:
    file = tmp_path / 'report.html'
    write_report(file, **{'title': 'T', 'rows': [], **kwargs})
    return Page(file.read_text(encoding='utf-8'))


def test_images_come_back_unchanged(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    page = report(tmp_path, rows=[('a', {'one': image, 'two': image[:, ::-1]}),
                                  ('b', {'two': image})])
    decoded = [np.array(Image.open(io.BytesIO(base64.b64decode(i['src'].partition(',')[2]))))
               for i in page.images]
    for ours, expected in zip(decoded, [image, image[:, ::-1], image], strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert (page.images[0]['width'], page.images[0]['height']) == ('7', '5')
    assert page.tags.count('td') == 4  # a missing image leaves an empty cell


def test_all_text_is_escaped(tmp_path):
    evil = '<script>"&'
    image = np.zeros((1, 1, 3), np.uint8)
    page = report(tmp_path, title=evil, rows=[(evil, {evil: image})], notes=[evil],
                  tables=[(evil, [evil], [[evil]])], legend={evil: (1, 2, 3)})
    assert 'script' not in page.tags
    # title, h1, note, caption, header, cell, legend, column, row
    assert page.texts.count(evil) == 9
    assert page.images[0]['alt'] == f'{evil} of {evil}'


def test_page_needs_no_other_file(tmp_path):
    image = np.zeros((1, 1, 3), np.uint8)
    report(tmp_path, rows=[('a', {'one': image})])
    text = (tmp_path / 'report.html').read_text()
    assert not re.search(r'https?://|<link|<script', text)


def test_rows_may_be_a_generator_and_an_error_leaves_no_file(tmp_path):
    def rows():
        yield 'a', {'one': np.zeros((1, 1, 3), np.uint8)}
        yield 'b', {'other': np.zeros((1, 1, 3), np.uint8)}

    with pytest.raises(ValueError, match=r"b: expected the columns \['one'\].*\['other'\]"):
        report(tmp_path, rows=rows())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('image', [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3))])
def test_only_rgb_images(tmp_path, image):
    with pytest.raises(ValueError, match='a, one: expected an uint8 RGB image'):
        report(tmp_path, rows=[('a', {'one': image})])


def test_table_of_text_aligns_columns():
    text = format_table(['name', 'x'], [['long name', 1], ['b', 22.5]])
    assert text == 'name          x\n---------------\nlong name     1\nb          22.5'
    assert format_table(['only', 'header'], []).count('\n') == 1


def test_table_refuses_ragged_rows():
    with pytest.raises(ValueError, match='Expected 2 cells'):
        format_table(['a', 'b'], [['1']])
