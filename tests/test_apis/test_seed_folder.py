"""What a folder of seeds is taken for, and what is said about those that do not fit."""
from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_dhr.apis import Photo, seed_folder
from mmseg_dhr.apis.seed_folder import open_seeds
from mmseg_dhr.formats import UnsafePickleError, write_cam, write_mask
from mmseg_dhr.formats.seeds import FLAVOURS
from mmseg_dhr.utils import UserError

SIZES = dict(a=(9, 7), b=(8, 8), c=(5, 6), d=(9, 7))
TAGS = dict(a=(1, 3), b=(3, ), c=(), d=(2, ))
NUM_CLASSES = 4


@pytest.fixture
def photos(tmp_path):
    """Four images of three sizes; c has no tag."""
    for name, (height, width) in SIZES.items():
        Image.new('RGB', (width, height)).save(tmp_path / f'{name}.png')
    return [Photo(name, str(tmp_path / f'{name}.png'), TAGS[name]) for name in SIZES]


@pytest.fixture
def said(monkeypatch):
    """Lines that go to the log."""
    lines = []
    monkeypatch.setattr(seed_folder, 'print_log', lambda line, **_: lines.append(line))
    return lines


def maps_of(name, stride=1):
    """Random maps of the image's tags."""
    height, width = (-(-side // stride) for side in SIZES[name])
    rng = np.random.default_rng(ord(name))
    return rng.random((len(TAGS[name]), height, width), np.float32)


def by_class(name, shift=-1):
    return {tag + shift: one for tag, one in zip(TAGS[name], maps_of(name), strict=True)}


def with_keys(field, shift, pad=False):
    def make(name):
        keys = np.array([0] * pad + [tag + shift for tag in TAGS[name]])
        return {'keys': keys, 'cam': torch.from_numpy(maps_of(name, 4)), field: maps_of(name)}
    return make


WRITERS = dict(
    psa=('.npy', by_class),
    irnet=('.npy', with_keys('high_res', -1)),
    puzzlecam=('.npy', with_keys('hr_cam', 0)),
    puzzlecam_rw=('.npy', with_keys('rw', 0, pad=True)),
    rsepm=('.pkl', with_keys('seed', 0, pad=True)),
)


@pytest.fixture
def write(tmp_path):
    """Writes a folder of seeds; returns it."""

    def run(contents, suffix='.npy', folder='some/seeds'):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            path = tmp_path / folder / f'{name}{suffix}'
            if suffix == '.pkl':
                path.write_bytes(pickle.dumps(content))
            else:
                np.save(path, content)
        return tmp_path / folder

    return run


def fits(folder, photos):
    opened = open_seeds(folder, photos, NUM_CLASSES)
    for photo in photos:
        labels, maps, background = opened.read(photo)
        assert labels == photo.tags and background is None
        assert len(maps) == len(labels)
        if labels:
            np.testing.assert_array_equal(maps, maps_of(photo.img_id))
    return opened


class TestFlavours:

    @pytest.mark.parametrize('name', WRITERS)
    def test_detected(self, photos, write, said, name) -> None:
        suffix, content = WRITERS[name]
        opened = fits(write({one: content(one) for one in SIZES}, suffix), photos)
        assert opened.name == name and opened.suffix == suffix
        assert opened.foreground_first == (name in ('psa', 'irnet'))
        (line, ) = said
        assert f'4 {suffix} files of flavour {name} ({FLAVOURS[name].layout} in each file' in line
        order = '0-based' if opened.foreground_first else 'label ids'
        assert line.split('Classes: ')[1].startswith(order)
        assert ('also the layout of' in line) == (name in ('psa', 'irnet'))

    @pytest.mark.parametrize(('folder', 'name'), [
        ('seam', 'seam'), ('data/MCTformer-V2/cam', 'mctformer'), ('x/y/oversea', 'psa')])
    def test_same_layout_named_by_folder(self, photos, write, said, folder, name) -> None:
        opened = fits(write({one: by_class(one) for one in SIZES}, folder=folder), photos)
        assert opened.name == name
        assert ('by the name of the folder' in said[0]) == (name != 'psa')

    def test_named_by_the_user(self, photos, write, said) -> None:
        folder = write({one: by_class(one) for one in SIZES})
        assert open_seeds(folder, photos, NUM_CLASSES, flavour='mctformer').name == 'mctformer'
        assert 'mctformer (named by the user)' in said[0]
        with pytest.raises(UserError, match='3 of 4 files cannot be read: a, b, d .*`keys`, `cam`'):
            open_seeds(folder, photos, NUM_CLASSES, flavour='irnet')
        with pytest.raises(UserError, match="'sam' is no flavour .*mctformer"):
            open_seeds(folder, photos, NUM_CLASSES, flavour='sam')

    def test_our_own(self, photos, tmp_path, said) -> None:
        for name in SIZES:
            write_cam(tmp_path / f'cams/{name}.npz', TAGS[name], maps_of(name, 4))
        opened = open_seeds(tmp_path / 'cams', photos, NUM_CLASSES)
        assert opened.name == 'cams'
        np.testing.assert_array_equal(opened.read(photos[0]).maps,
                                      maps_of('a', 4).astype(np.float16))

    def test_masks(self, photos, tmp_path, said) -> None:
        for name, size in SIZES.items():
            mask = np.resize([0, 255, *TAGS[name][:1]], size)
            write_mask(tmp_path / f'masks/{name}.png', mask, [[0, 0, 0]])
        opened = open_seeds(tmp_path / 'masks', photos, NUM_CLASSES)
        assert opened.are_masks and len(said) == 1
        write_mask(tmp_path / 'masks/d.png', np.full((7, 9), 2), [[0, 0, 0]])
        with pytest.raises(UserError, match=r"1 of 4 files are not of the image's size: d \(a mask "
                           'of 7x9 for an image of 9x7'):
            open_seeds(tmp_path / 'masks', photos, NUM_CLASSES)

    def test_a_map_of_the_background(self, photos, write, said) -> None:
        """PSA's results of a CRF: label ids, 0 is the background."""
        background = {name: np.full(SIZES[name], ord(name) / 256) for name in SIZES}
        folder = write({name: {0: background[name], **by_class(name, 0)} for name in SIZES})
        opened = open_seeds(folder, photos, NUM_CLASSES)
        assert opened.name == 'psa' and not opened.foreground_first and opened.has_background
        for photo in photos:
            labels, maps, own = opened.read(photo)
            assert labels == photo.tags
            np.testing.assert_array_equal(own, background[photo.img_id])
            if labels:
                np.testing.assert_array_equal(maps, maps_of(photo.img_id))

    def test_digest_is_of_the_content(self, photos, write) -> None:
        def digest(folder, change=0., suffix='.npy'):
            contents = {name: by_class(name) for name in SIZES}
            contents['d'] = {key: one + change for key, one in contents['d'].items()}
            return open_seeds(write(contents, suffix, folder), photos, NUM_CLASSES).digest

        assert digest('one') == digest('two', suffix='.pkl') != digest('three', 1e-4)

    @pytest.mark.parametrize(('background', 'foreground'), [(None, [0, 1, 2, 3]), (2, [0, 1, 3])])
    def test_background_elsewhere(self, photos, write, background, foreground) -> None:
        photos = [photo._replace(tags=tuple(foreground[tag - 1] for tag in photo.tags))
                  for photo in photos]
        opened = open_seeds(write({name: by_class(name) for name in SIZES}), photos, NUM_CLASSES,
                            background)
        for photo in photos:
            assert opened.read(photo).labels == photo.tags

    def test_strides(self, photos, write) -> None:
        for stride in (2, 3, 8):
            folder = write({name: dict(keys=np.array(TAGS[name], int) - 1,
                                       cam=torch.from_numpy(maps_of(name, stride)))
                            for name in SIZES}, folder=f'stride{stride}')
            assert open_seeds(folder, photos, NUM_CLASSES, threads=2).name == 'irnet'


class TestClassOrder:

    def test_label_ids_where_others_count_from_zero(self, photos, write, said) -> None:
        opened = fits(write({name: by_class(name, 0) for name in SIZES}), photos)
        assert opened.name == 'psa' and not opened.foreground_first
        assert 'as label ids of the data set these fit the tags of 3 of 3 images (else of 0)' in \
            said[0]

    def test_another_shift_is_named(self, photos, write) -> None:
        with pytest.raises(UserError, match=r'the tags in only 0 of 3 images; in a the file says '
                           r'\[2, 4\], and the tags are \[1, 3\]\. They fit as label ids of '
                           'the data set if -1 is added'):
            open_seeds(write({name: by_class(name, 1) for name in SIZES}), photos, NUM_CLASSES)

    def test_another_order(self, photos, write) -> None:
        mixed = {1: 1, 2: 0, 3: 2}
        folder = write({name: {mixed[tag]: one for tag, one in by_class(name, 0).items()}
                        for name in SIZES})
        with pytest.raises(UserError, match='only 1 of 3 images; .* in its order of classes'):
            open_seeds(folder, photos, NUM_CLASSES)

    def test_masks_that_count_otherwise(self, photos, tmp_path) -> None:
        for name, size in SIZES.items():
            write_mask(tmp_path / f'masks/{name}.png', np.full(size, sum(TAGS[name][:1]) + 1),
                       [[0, 0, 0]])
        with pytest.raises(UserError, match='They fit as label ids of the data set if -1 is'):
            open_seeds(tmp_path / 'masks', photos, NUM_CLASSES)

    def test_a_tag_without_map(self, photos, write, said) -> None:
        contents = {name: by_class(name) for name in SIZES}
        del contents['a'][0]
        opened = open_seeds(write(contents), photos, NUM_CLASSES)
        assert '1 of 4 images have a tag without a map: a.' in said[0]
        labels, maps, _ = opened.read(photos[0])
        assert labels == (3, )
        np.testing.assert_array_equal(maps, maps_of('a')[1:])

    def test_a_map_without_tag(self, photos, write, said) -> None:
        contents = {name: by_class(name) for name in SIZES}
        contents['d'] = {0: maps_of('d')[0] / 2, **contents['d']}  # class 1 is no tag of d
        opened = open_seeds(write(contents), photos, NUM_CLASSES)
        assert '1 of 4 files have classes that are no tag of their image: d.' in said[0]
        labels, maps, _ = opened.read(photos[3])
        assert labels == (2, )
        np.testing.assert_array_equal(maps, maps_of('d'))


def broken(name, change):
    contents = {one: by_class(one) for one in SIZES}
    contents[name] = change(contents[name])
    return contents


def spoil(value):
    def change(content):
        key = max(content)
        content[key] = content[key].copy()
        content[key][0, 0] = value
        return content
    return change


class TestBadSeeds:

    @pytest.mark.parametrize(('change', 'message'), [
        (spoil(np.nan), 'hold NaN or infinity: d'),
        (spoil(-np.inf), 'hold NaN or infinity: d'),
        (spoil(1.5), r'hold scores outside \[0, 1\]: d \(.* to 1\.5\)'),
        (spoil(-0.5), r'hold scores outside \[0, 1\]: d \(-0\.5 to'),
        (lambda content: {1: content[1].T},
         r'.* over a whole stride: d \(maps of 7x9 for an image of 9x7\)'),
        (lambda content: {1: content[1][:, :4]}, r'.* over a whole stride: d \(maps of 9x4'),
        (lambda content: dict(keys=[1], cam=content[1][None]), 'cannot be read: d .*class: map'),
        (lambda content: content[1], 'cannot be read: d .*but found ndarray'),
        (lambda content: {**content, 7: content[1]},
         r'have classes that the data set does not have \(4 classes, files read as 0-based'
         r'.*\): d \(classes \[1, 7\]\)'),
    ])
    def test_named(self, photos, write, change, message) -> None:
        with pytest.raises(UserError, match=f'seeds: 1 of 4 files {message}'):
            open_seeds(write(broken('d', change)), photos, NUM_CLASSES)

    def test_all_kinds_at_once(self, photos, write) -> None:
        contents = broken('d', spoil(np.nan))
        contents['a'] = spoil(2)(contents['a'])
        contents['b'] = spoil(3)(contents['b'])
        with pytest.raises(UserError, match=r'2 of 4 files hold scores .*: a, b .*\. 1 of 4 files '
                           'hold NaN or infinity: d'):
            open_seeds(write(contents), photos, NUM_CLASSES)

    def test_rounding_is_clipped(self, photos, write) -> None:
        opened = open_seeds(write(broken('d', spoil(1.0005))), photos, NUM_CLASSES)
        assert opened.read(photos[3]).maps.max() == 1

    def test_missing_and_surplus(self, photos, write, said) -> None:
        contents = {name: by_class(name) for name in SIZES}
        folder = write({**contents, 'x': {}, 'y': {}})
        open_seeds(folder, photos, NUM_CLASSES)
        assert said[0].endswith('2 .npy files are of no image of the data set and are not read: '
                                'x, y.')
        (folder / 'b.npy').unlink()
        (folder / 'c.npy').unlink()
        with pytest.raises(UserError, match=r'2 of 4 images have no \.npy file: b, c\. 2 files are '
                           r'of no image of the data set: x, y\.'):
            open_seeds(folder, photos, NUM_CLASSES)

    def test_an_empty_dict_is_an_image_without_maps(self, photos, write, said) -> None:
        opened = open_seeds(write(broken('d', lambda _: {})), photos, NUM_CLASSES)
        assert '1 of 4 images have a tag without a map: d.' in said[0]
        labels, maps, _ = opened.read(photos[3])
        assert labels == () and maps.shape[0] == 0

    @pytest.mark.parametrize(('contents', 'message'), [
        ({name: {} for name in SIZES}, 'all 4 files are empty'),
        ({name: [1] for name in SIZES}, r'a\.npy: expected .*class: map.*, but found'),
        ({name: dict(maps=1) for name in SIZES}, r"expected .*, but found \['maps'\]"),
        ({'x': {}}, r'for each of 4 images \(a, b, c, \.\.\.\), but found none .* 1 entries: x'),
        ({}, 'The folder holds 0 entries: none'),
    ])
    def test_nothing_to_read(self, photos, write, contents, message) -> None:
        with pytest.raises(UserError, match=message):
            open_seeds(write(contents), photos, NUM_CLASSES)

    def test_two_kinds(self, photos, write) -> None:
        contents = {name: by_class(name) for name in SIZES}
        write(contents)
        folder = write({'b': {}}, '.pkl')
        with pytest.raises(UserError, match=r'found 4 \.npy, 1 \.pkl files'):
            open_seeds(folder, photos, NUM_CLASSES)

    def test_no_folder(self, photos, tmp_path) -> None:
        with pytest.raises(UserError, match='absent: no such folder of seeds or masks'):
            open_seeds(tmp_path / 'absent', photos, NUM_CLASSES)

    @pytest.mark.parametrize('where', ['a', 'd'])
    def test_code_is_not_run(self, photos, write, tmp_path, where) -> None:
        made = tmp_path / 'made'

        class Attack:
            def __reduce__(self):
                return os.mkdir, (str(made), )

        with pytest.raises(UnsafePickleError, match=rf'{where}\.npy: the pickle asks for'):
            open_seeds(write(broken(where, lambda _: {1: Attack()})), photos, NUM_CLASSES)
        assert not made.exists()
