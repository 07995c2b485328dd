"""Photos as people have them: sub-folders, suffixes, copies, EXIF; and the ten-line config."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import mmcv
import numpy as np
import pytest
from mmengine.config import Config
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_dhr.apis.common import read_rgb
from mmseg_dhr.models.segmentors.refinement import read_image
from mmseg_dhr.utils import UserError, load_config

pytestmark = pytest.mark.usefixtures('mmseg_modules')


def photo(path: Path, value: int = 0, orientation: int | None = None) -> Path:
    """A photo of 6x10 (HxW) with a bright corner, as stored; the tag turns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((6, 10, 3), value, np.uint8)
    pixels[:2, :3] = 250
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **(
        dict(quality=100, subsampling=0) if path.suffix.lower().startswith('.j') else {}))
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """Four photos and a file of each kind that is no photo."""
    for i, name in enumerate(['a.jpg', 'b.JPG', 'trip/c.png', 'trip/far/d.Jpeg']):
        photo(tmp_path / 'images' / name, 20 * i)
    for name in ('._a.jpg', '.cache/e.jpg', 'notes.txt', 'clip.mov'):
        (tmp_path / 'images' / name).parent.mkdir(exist_ok=True)
        (tmp_path / 'images' / name).write_bytes(b'none')
    (tmp_path / 'labels.csv').write_text('id,labels\na,dog\nb,cat; dog\nc,background;cat\nd,dog\n')
    return tmp_path


def build(root: Path, **options):
    return DATASETS.build(dict(type='ImageLabelDataset', data_root=str(root),
                               **{'data_prefix': dict(img_path='images'), **options}))


def names(dataset) -> list[str]:
    return [Path(dataset.get_data_info(i)['img_path']).name for i in range(len(dataset))]


def test_mixed_suffixes_and_folders(root):
    dataset = build(root, labels='labels.csv')
    assert names(dataset) == ['a.jpg', 'b.JPG', 'c.png', 'd.Jpeg']
    assert 'seg_map_path' not in dataset.get_data_info(0)
    assert dataset.metainfo['classes'] == ('background', 'cat', 'dog')
    assert dataset.metainfo['palette'] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]


def test_linked_folders(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp('elsewhere')
    photo(elsewhere / 'deep/x.jpg')
    (root / 'images/linked').symlink_to(elsewhere)
    (elsewhere / 'deep/back').symlink_to(root / 'images')  # a circle
    assert names(build(root)) == ['a.jpg', 'b.JPG', 'x.jpg', 'c.png', 'd.Jpeg']


def test_one_suffix(root):
    assert names(build(root, img_suffix='.jpg')) == ['a.jpg', 'b.JPG']


@pytest.mark.parametrize('kind', ['csv', 'json', 'folders'])
def test_the_same_tags_from_every_source(root, kind):
    tags = dict(a=['dog'], b=['cat', 'dog'], c=['cat'], d=['dog'])
    labels, prefix = f'labels.{kind}', 'images'
    if kind == 'json':
        (root / labels).write_text(json.dumps(tags))
    elif kind == 'folders':
        files = {file.stem: file for file in sorted((root / 'images').rglob('[a-d].*'))}
        for image_id, words in tags.items():
            for word in words:
                (root / 'sorted' / word).mkdir(parents=True, exist_ok=True)
                shutil.copy(files[image_id], root / 'sorted' / word)
        labels = prefix = 'sorted'
    inner = dict(type='ImageLabelDataset', data_root=str(root), labels=labels,
                 data_prefix=dict(img_path=prefix), pipeline=[dict(type='LoadImageFromFile')])
    source = dict(type=kind, path=labels)
    tagged = DATASETS.build(dict(type='TaggedDataset', dataset=inner, labels=source))
    found = {info['img_id']: info['image_labels']
             for info in map(tagged.get_data_info, range(len(tagged)))}
    assert found == dict(a=(2, ), b=(1, 2), c=(1, ), d=(2, ))
    assert tagged[0]['img'].shape == (6, 10, 3)


def test_without_labels_or_classes_it_is_a_list_of_photos(root):
    assert len(build(root)) == 4
    assert len(build(root / 'images', data_prefix=dict())) == 4


@pytest.mark.parametrize('copy', [True, False])
def test_two_files_of_one_name(root, copy):
    other = root / 'images/trip/a.jpg'
    photo(other, 0 if copy else 99)
    if copy:
        assert names(build(root)).count('a.jpg') == 1
    else:
        with pytest.raises(UserError, match=r'images/a.jpg and .*trip/a.jpg are different photos'):
            build(root)


@pytest.mark.parametrize(('options', 'text', 'match'), [
    (dict(data_prefix=dict(img_path='absent')), None, 'absent: no such folder of photos'),
    (dict(labels='labels.txt'), None, 'labels.txt: expected labels as a .csv or .json file'),
    (dict(labels='absent.csv'), None, 'absent.csv: no such labels'),
    (dict(labels=dict(type='npy', path='x.npy')), None, "type 'npy' hold no names"),
    (dict(labels='labels.csv'), 'id,labels\na,1\n', "labels.csv, image 'a': expected names"),
    (dict(labels='labels.csv'), 'id,labels\na,background\n', 'expected tags, but found none'),
    (dict(labels='labels.csv'), 'id,labels\na,"person, dog"\n',
     "labels.csv, image 'a': expected one name, but found 'person, dog'.*semicolons"),
])
def test_errors(root, options, text, match):
    if text:
        (root / 'labels.csv').write_text(text)
    with pytest.raises(UserError, match=match):
        build(root, **options)


def test_a_folder_without_photos(tmp_path):
    (tmp_path / 'images').mkdir()
    with pytest.raises(UserError, match='images: expected photos .*, but found none'):
        build(tmp_path)


@pytest.mark.parametrize('suffix', ['.png', '.TIF'])
def test_a_photo_of_16_bits(root, suffix):
    """Pillow would make it white."""
    path = root / 'images' / f'deep{suffix}'
    Image.fromarray(np.full((6, 10), 300, np.uint16)).save(path)
    with pytest.raises(UserError, match=rf'deep\{suffix}: expected a photo of 8 bits a colour'):
        build(root)


def test_a_damaged_photo_is_left_for_its_turn(root):
    (root / 'images/broken.png').write_bytes(b'none')
    assert 'broken.png' in names(build(root))


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_every_stage_turns_a_photo_alike(tmp_path, orientation, suffix):
    """Both backends of mmcv, the stage commands (CAM, USS, CRF) and the CRF of a prediction."""
    path = photo(tmp_path / f'x{suffix}', 40, orientation)
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]  # EXIF, by hand
    stored = np.array(Image.open(path).convert('RGB'))
    expected = np.rot90(stored, turns)
    for found in (read_rgb(path), read_image(str(path), expected.shape[:2]).permute(1, 2, 0),
                  *(mmcv.imfrombytes(path.read_bytes(), channel_order='rgb', backend=backend)
                    for backend in ('pillow', 'cv2'))):
        assert found.shape == expected.shape
        assert np.abs(np.asarray(found).astype(int) - expected).max() <= 6


CONFIG = """_base_ = ['{base}']
from mmseg_dhr.datasets import use_photos

use_photos(
    _base_,
    data_root='{root}',
    images='images',
    labels={labels})
"""


@pytest.fixture
def write(root, repo_root, monkeypatch):
    monkeypatch.delenv('MMSEG_DHR_DATA', raising=False)

    def write(labels: str = "'labels.csv'", folder: Path = root) -> Path:
        file = root / 'my_photos.py'
        base = repo_root / 'configs/dhr/own_photos.py'
        file.write_text(CONFIG.format(base=base, root=folder, labels=labels))
        assert len(file.read_text().split('\n')) <= 11
        return file
    return write


def check(config: Config, root: Path, classes: tuple[str, ...]) -> None:
    count = len(classes)
    assert config.num_classes == count
    model = config.model
    assert [model.segmentor.decode_head.num_classes, model.cam_head.num_classes,
            model.propagation.num_classes] == [count] * 3
    for tagged in (config.train_dataloader.dataset, config.pseudo_label_dataset):
        assert tagged.dataset.data_root == str(root)
        assert [step.num_classes for step in tagged.dataset.pipeline
                if step.type == 'LoadPseudoMask'] == [count]
    assert tuple(config.test_dataloader.dataset.metainfo.classes) == classes


def test_a_config_of_ten_lines(root, write, tmp_path):
    config = load_config(write())
    check(config, root, ('background', 'cat', 'dog'))
    data = DATASETS.build(dict(config.train_dataloader.dataset, seed=None))
    assert [data.image_labels(i) for i in range(4)] == [(2, ), (1, 2), (1, ), (2, )]
    # What a training leaves in its folder is a config that needs neither photos nor this package's
    # own configs.
    config.dump(tmp_path / 'dumped.py')
    check(Config.fromfile(tmp_path / 'dumped.py'), root, ('background', 'cat', 'dog'))


def test_counts_are_of_photos(root, write, capfd):
    (root / 'labels.csv').write_text('id,labels\na.jpg,dog\nb,cat;dog\nx.HEIC,cat;cow\ny,dog\n')
    check(load_config(write()), root, ('background', 'cat', 'cow', 'dog'))
    text = ''.join(capfd.readouterr())
    assert 'Classes, with their photos: cat 1, cow 0, dog 2\n' in text
    assert f'2 of 4 entries of the labels have no photo in {root}/images' in text
    assert 'such as x.HEIC, y.' in text


def test_all_entries_have_a_photo(write, capfd):
    load_config(write())
    assert 'no photo' not in ''.join(capfd.readouterr())


def test_classes_can_be_given_where_there_are_no_photos(write, tmp_path):
    config = load_config(write("'tags.json',\n    classes=('dog', 'cow', 'cat')", tmp_path / 'no'))
    check(config, tmp_path / 'no', ('background', 'dog', 'cow', 'cat'))
    assert config.train_dataloader.dataset.labels == dict(type='json', path='tags.json')


def test_another_data_root_by_command(root, write):
    shutil.copytree(root, root / 'moved', ignore=shutil.ignore_patterns('moved'))
    (root / 'moved/labels.csv').write_text('id,labels\na,cow\n')
    config = load_config(write(), data_root=str(root / 'moved'))
    check(config, root / 'moved', ('background', 'cow'))


def test_missing_labels_are_named(root, write):
    (root / 'labels.csv').unlink()
    with pytest.raises(UserError, match='labels.csv: no such labels'):
        load_config(write())
