"""Every kind of source gives the same tags, and every broken rule one clear error."""
from __future__ import annotations

import json

import numpy as np
import pytest

from mmseg_dhr.datasets import read_image_labels
from mmseg_dhr.formats import write_mask

CLASSES = ('background', 'cat', 'dog ', 'dining table')  # ADE20K's names do have such blanks
EXPECTED = {'2007_000032': (1, 3), '2007_000039': (2,)}


def read(kind, path, ids=None, classes=CLASSES, background_index=0, **options):
    return read_image_labels(dict(type=kind, path=str(path), **options), classes, background_index,
                             ids)


def write_json(folder, content):
    path = folder / 'labels.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_csv(folder, text):
    path = folder / 'labels.csv'
    path.write_text(text)
    return path


def write_npy(folder, content):
    np.save(folder / 'cls_labels.npy', content)
    return folder / 'cls_labels.npy'


def make_folders(folder, content):
    for name in content:
        path = folder / 'tree' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder / 'tree'


def make_masks(folder, content, suffix='.png'):
    for image_id, mask in content.items():
        write_mask(folder / 'masks' / f'{image_id}{suffix}', np.array(mask), [[0, 0, 0]])
    return folder / 'masks'


def vector(*indices, length=3):
    result = np.zeros(length, np.float32)
    result[list(indices)] = 1
    return result


SOURCES = {
    'json_names': lambda d: ('json', write_json(d, {
        '2007_000032': ['dining table', 'cat'], '2007_000039': ['dog', 'background']})),
    'json_indices': lambda d: ('json', write_json(d, {
        '2007_000032': [3, 1, 1, 0], '2007_000039': [2]})),
    'csv': lambda d: ('csv', write_csv(d, 'id,labels\n2007_000032,cat; dining table\n\n'
                                          '2007_000039,dog;0\n')),
    'csv_indices': lambda d: ('csv', write_csv(d, '\ufeffid,labels\r\n2007_000032,1;3\r\n'
                                                  '2007_000039,2;\r\n')),
    'folders': lambda d: ('folders', make_folders(d, [
        'cat/2007_000032.jpg', 'dining table/2007_000032.jpg', 'dog/2007_000039.JPG',
        'dog/readme.txt', 'background/2007_000039.jpg', '.git/x.jpg', 'cat/.hidden.jpg'])),
    'npy_str': lambda d: ('npy', write_npy(d, {
        '2007_000032': vector(0, 2), '2007_000039': vector(1)})),
    'npy_int': lambda d: ('npy', write_npy(d, {
        np.int32(2007000032): vector(0, 2), np.int32(2007000039): vector(1)})),
    'masks': lambda d: ('masks', make_masks(d, {
        '2007_000032': [[0, 1], [3, 255]], '2007_000039': [[2, 2]]})),
}


class TestSources:

    @pytest.mark.parametrize('ids', [None, tuple(EXPECTED)])
    @pytest.mark.parametrize('name', SOURCES)
    def test_same_tags(self, tmp_path, name, ids):
        assert read(*SOURCES[name](tmp_path), ids=ids) == EXPECTED

    @pytest.mark.parametrize('name', SOURCES)
    def test_surplus_ids_are_left_out(self, tmp_path, name):
        assert read(*SOURCES[name](tmp_path), ids=['2007_000039']) == {'2007_000039': (2,)}

    @pytest.mark.parametrize('name', SOURCES)
    def test_missing_ids_are_one_error(self, tmp_path, name):
        with pytest.raises(ValueError, match=r"4 of the data set's 5 images have no entry, such as "
                                             r"\['a', 'b', 'c'\]"):
            read(*SOURCES[name](tmp_path), ids=['a', '2007_000032', 'b', 'c', 'd'])

    @pytest.mark.parametrize('ids', [None, ['a', 'b.c', 'd.png']])
    def test_file_names_as_ids(self, tmp_path, ids):
        path = write_csv(tmp_path, 'id,labels\na.JPG,cat\nb.c,dog\nd.png.jpeg,cat\n')
        assert read('csv', path, ids=ids) == {'a': (1, ), 'b.c': (2, ), 'd.png': (1, )}

    @pytest.mark.parametrize('rows', [',', ' , ', ',,,', '  '])
    def test_blank_rows_of_a_spreadsheet(self, tmp_path, rows):
        path = write_csv(tmp_path, f'id,labels\na,cat\n{rows}\n{rows}\n')
        assert read('csv', path) == {'a': (1, )}

    @pytest.mark.parametrize('kind', ['csv', 'json'])
    def test_mark_in_front_of_utf8(self, tmp_path, kind):
        path = tmp_path / 'labels'
        path.write_text('id,labels\na,cat\n' if kind == 'csv' else '{"a": ["cat"]}',
                        encoding='utf-8-sig')
        assert read(kind, path) == {'a': (1, )}

    @pytest.mark.parametrize('encoding', ['cp1252', 'utf-16'])
    @pytest.mark.parametrize('kind', ['csv', 'json'])
    def test_other_encodings(self, tmp_path, kind, encoding):
        path = tmp_path / 'labels'
        path.write_text('id,labels\na,K\u00e4se\n' if kind == 'csv' else '{"a": ["K\u00e4se"]}',
                        encoding=encoding)
        with pytest.raises(ValueError, match='labels: expected text in UTF-8, .*"CSV UTF-8"'):
            read(kind, path)

    def test_plain_values(self, tmp_path):
        """Tags are ints, not numpy's: they are hashed, compared and written as JSON."""
        for name, source in SOURCES.items():
            (tmp_path / name).mkdir()
            tags = read(*source(tmp_path / name))['2007_000032']
            assert all(type(tag) is int for tag in tags), name

    def test_no_background(self, tmp_path):
        """Without background index 0 is a class like any other, and vectors cover all classes."""
        options = dict(classes=('wall', 'sky'), background_index=None)
        path = write_json(tmp_path, {'a': ['sky', 0]})
        assert read('json', path, **options) == {'a': (0, 1)}
        path = write_npy(tmp_path, {'a': vector(0, 1, length=2)})
        assert read('npy', path, **options) == {'a': (0, 1)}

    def test_background_in_the_middle(self, tmp_path):
        path = write_npy(tmp_path, {'a': vector(0, 1)})
        assert read('npy', path, classes=('x', 'bg', 'y', 'z'), background_index=1) == {'a': (0, 2)}

    def test_integer_ids_match_any_id_with_these_digits(self, tmp_path):
        path = write_npy(tmp_path, {np.int64(9): vector(0), np.int64(25): vector(1)})
        ids = ['000000000009', 'image-25']
        assert read('npy', path, ids=ids) == {'000000000009': (1,), 'image-25': (2,)}

    def test_masks_options(self, tmp_path):
        path = make_masks(tmp_path, {'a': [[0, 1, 1, 2, 255, 254]]}, suffix='_labels.png')
        options = dict(suffix='_labels.png', classes=tuple('wxyz'), background_index=None)
        with pytest.raises(ValueError, match=r'a_labels\.png: .*below 4 or 255, but found \[254\]'):
            read('masks', path, **options)
        path = make_masks(tmp_path, {'a': [[0, 1, 1, 2, 255, 255]]}, suffix='_labels.png')
        assert read('masks', path, **options) == {'a': (0, 1, 2)}
        assert read('masks', path, **options, min_pixels=2) == {'a': (1,)}
        assert read('masks', path, **options, reduce_zero_label=True) == {'a': (0, 1)}


class TestRules:

    @pytest.mark.parametrize('tag, hint', [
        ('cats', "Did you mean 'cat'"), ('Dog', "Did you mean 'dog'"),
        ('xylophone', r"Expected a class name \('background', 'cat', .*label index in \[0, 4\)"),
        (4, r'label index in \[0, 4\)'), (-1, 'label index'), (1.0, 'label index'),
        (True, 'label index'), (None, 'label index'), ('4', 'label index'), (['cat'], 'cat')])
    def test_unknown_tag(self, tmp_path, tag, hint):
        path = write_json(tmp_path, {'a': ['cat'], 'b': [tag]})
        with pytest.raises(ValueError, match=rf"labels\.json, image 'b': .* is no class.*{hint}"):
            read('json', path)
        assert read('json', path, ids=['a']) == {'a': (1,)}

    def test_unknown_folder(self, tmp_path):
        path = make_folders(tmp_path, ['cat/a.jpg', 'cow/b.jpg'])
        with pytest.raises(ValueError, match="folder: 'cow' is no class"):
            read('folders', path)

    @pytest.mark.parametrize('source', [
        lambda d: ('json', write_json(d, '{"a": ["cat"], "a": ["dog"]}')),
        lambda d: ('csv', write_csv(d, 'id,labels\na,cat\na,dog\n')),
        lambda d: ('folders', make_folders(d, ['cat/a.jpg', 'cat/a.png']))])
    def test_duplicate_id(self, tmp_path, source):
        with pytest.raises(ValueError, match="image id 'a' occurs twice"):
            read(*source(tmp_path))

    @pytest.mark.parametrize('source', [
        lambda d: ('json', write_json(d, {'a': [], 'b': ['cat'], 'c': ['background']})),
        lambda d: ('csv', write_csv(d, 'id,labels\na,\nb,cat\nc,background\n')),
        lambda d: ('folders', make_folders(d, ['background/a.jpg', 'cat/b.jpg',
                                              'background/c.jpg'])),
        lambda d: ('npy', write_npy(d, {'a': vector(), 'b': vector(0), 'c': vector()})),
        lambda d: ('masks', make_masks(d, {'a': [[0]], 'b': [[1]], 'c': [[255]]}))])
    def test_images_without_tags(self, tmp_path, source):
        kind, path = source(tmp_path)
        with pytest.raises(ValueError, match=r"2 images.*\['a', 'c'\].*allow_empty=True"):
            read(kind, path)
        assert read(kind, path, ids=['b']) == {'b': (1,)}
        assert read(kind, path, allow_empty=True) == {'a': (), 'b': (1,), 'c': ()}

    @pytest.mark.parametrize('content, message', [
        ('{"a": ', 'not a JSON file'), ('["a"]', 'expected an object'),
        ('{"a": "cat"}', "image 'a': expected a list"), ('{"a": {"cat": 1}}', 'expected a list')])
    def test_bad_json(self, tmp_path, content, message):
        with pytest.raises(ValueError, match=message):
            read('json', write_json(tmp_path, content))

    @pytest.mark.parametrize('content, message', [
        ('', 'expected the header `id,labels`'), ('a,cat\n', "but found 'a,cat'"),
        ('id,labels\na,cat,dog\n', 'line 2: expected two columns'),
        ('id,labels\na,cat\nb\n', 'line 3: expected two columns')])
    def test_bad_csv(self, tmp_path, content, message):
        with pytest.raises(ValueError, match=message):
            read('csv', write_csv(tmp_path, content))

    @pytest.mark.parametrize('content, message', [
        (np.zeros(3), 'expected a dict'), ({'a': vector(length=4)}, r'3 foreground.*\(4,\)'),
        ({'a': np.array([0, .5, 1])}, 'expected 0 or 1'),
        ({'a': np.array([0, np.nan, 1])}, 'expected 0 or 1')])
    def test_bad_npy(self, tmp_path, content, message):
        with pytest.raises(ValueError, match=message):
            read('npy', write_npy(tmp_path, content))

    @pytest.mark.parametrize('source, error, message', [
        (dict(type='xml', path='a'), ValueError, "one of \\['csv', 'folders', 'json'"),
        (dict(type='json'), ValueError, 'path=...'),
        (dict(type='json', path='absent.json'), FileNotFoundError, 'absent.json: no such file'),
        (dict(type='masks', path='absent'), FileNotFoundError, 'absent: no such folder'),
        (dict(type='json', path='.'), ValueError, "of type 'json' are a file"),
        (dict(type='json', path='a', suffix='.png'), ValueError, r"no setting \['suffix'\]")])
    def test_bad_source(self, source, error, message):
        with pytest.raises(error, match=message):
            read_image_labels(source, CLASSES, 0)

    @pytest.mark.parametrize('count', [255, 256])
    def test_more_classes_than_a_mask_has_labels(self, tmp_path, count):
        classes = [f'c{i}' for i in range(count)]
        path = write_json(tmp_path, {'a': [254]})
        if count == 255:
            assert read('json', path, classes=classes) == {'a': (254, )}
        else:
            with pytest.raises(ValueError, match='at most 255 classes, .* but got 256: c0, c1, c2'):
                read('json', path, classes=classes)

    def test_bad_background_index(self, tmp_path):
        with pytest.raises(ValueError, match=r'`background_index` to be None or in \[0, 4\)'):
            read('json', write_json(tmp_path, {}), background_index=4)


def test_real_label_files_agree(shared_dir):
    """VOC's tags as JSON, as PSA's cls_labels.npy and read from the masks."""
    from mmseg.datasets import PascalVOCDataset
    root = shared_dir / 'data' / 'vocmini'
    ids = (root / 'ImageSets/Segmentation/val.txt').read_text().split()
    classes = PascalVOCDataset.METAINFO['classes']
    json_labels = read('json', root / 'image_labels.json', ids, classes)
    assert json_labels == read('npy', root / 'cls_labels.npy', ids, classes)
    from_masks = read('masks', root / 'SegmentationClassAug', ids, classes)
    same = sum(json_labels[i] == from_masks[i] for i in ids)
    assert same / len(ids) > .95  # the boundary label hides an object now and then
