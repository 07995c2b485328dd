from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from PIL import Image

from mmseg_dhr.apis import Photo, common, list_photos, read_rgb
from mmseg_dhr.apis.common import image_size
from mmseg_dhr.formats import Manifest
from mmseg_dhr.utils import UserError

PHOTOS = [Photo(name, f'{name}.png', (1, )) for name in 'abcde']


def shards(folder, monkeypatch, world, settings=None, **options):
    """What each of several processes is given; rank 0 opens the folder first."""
    result = []
    for rank in range(world):
        monkeypatch.setattr(common, 'get_dist_info', lambda: (rank, world))
        result.append(common.open_shard('things', folder, PHOTOS, settings or {}, '.txt',
                                        **options))
    return result


@pytest.fixture
def lines(monkeypatch) -> list[str]:
    """What is logged."""
    found: list[str] = []
    monkeypatch.setattr(common, 'print_log', lambda line, logger: found.append(line))
    return found


def ids(shard):
    return [photo.img_id for photo in shard.photos]


def test_photos_of_a_data_set(scenes, scenes_root) -> None:
    found = list_photos(scenes)
    assert [photo.img_id for photo in found] == \
        (scenes_root / 'ImageSets/Segmentation/train.txt').read_text().split()
    for i, photo in enumerate(found):
        assert photo.tags == scenes.image_labels(i)
        assert photo.path == str(scenes_root / 'JPEGImages' / f'{photo.img_id}.png')


@pytest.mark.parametrize(('world', 'expected'), [
    (1, ['abcde']), (2, ['ace', 'bd']), (3, ['ad', 'be', 'c']),
    (6, ['a', 'b', 'c', 'd', 'e', '']),
])
def test_ranks_share_the_images(tmp_path, monkeypatch, world, expected) -> None:
    assert [''.join(ids(shard)) for shard in shards(tmp_path, monkeypatch, world)] == expected


def test_only_what_is_missing_is_made(tmp_path, monkeypatch, lines) -> None:
    shard, = shards(tmp_path, monkeypatch, 1)
    for name in 'ad':
        shard.output.path(name).write_text('')
    with pytest.raises(RuntimeError, match="3 of 5 files are missing, among them .'b', 'c', 'e'"):
        shard.finish()
    assert [ids(s) for s in shards(tmp_path, monkeypatch, 2)] == [['c', 'e'], ['b']]
    shard, = shards(tmp_path, monkeypatch, 1)
    for photo, in shard.batches():
        shard.output.path(photo.img_id).write_text('')
    shard.finish()
    assert [line.startswith('things: 3 images (2 more were there), ') for line in lines] == [True]
    assert Manifest.load(tmp_path).complete
    assert ids(shards(tmp_path, monkeypatch, 1)[0]) == []


def test_last_line_is_of_all_ranks(tmp_path, monkeypatch, lines) -> None:
    found = shards(tmp_path, monkeypatch, 2)
    for photo in PHOTOS:
        found[0].output.path(photo.img_id).write_text('')
    for rank, shard in enumerate(found):
        monkeypatch.setattr(common, 'get_dist_info', lambda: (rank, 2))
        shard.finish()
    assert [line.startswith('things: 5 images, ') for line in lines] == [True]


class TestBatches:

    @pytest.fixture
    def files(self, tmp_path) -> list[Photo]:
        """Sizes (height, width) 2x3, 3x2, 2x3, 2x3 as it is turned, 2x3."""
        photos = []
        for name, (size, orientation) in dict(
                a=((3, 2), 1), b=((2, 3), 1), c=((3, 2), 1), d=((2, 3), 6), e=((3, 2), 3)).items():
            image = Image.new('RGB', size, (ord(name), 0, 0))
            exif = image.getexif()
            exif[0x0112] = orientation
            image.save(tmp_path / f'{name}.png', exif=exif)
            photos.append(Photo(name, str(tmp_path / f'{name}.png'), ()))
        return photos

    @pytest.mark.parametrize(('size', 'expected'), [
        (0, 'a b c d e'), (1, 'a b c d e'), (2, 'ac de b'), (3, 'acd e b'), (9, 'acde b')])
    def test_of_one_size(self, files, size, expected) -> None:
        batches = common.of_one_size(files, size)
        assert [''.join(p.img_id for p in batch) for batch in batches] == expected.split()

    def test_pixels(self, files, tmp_path) -> None:
        shard = common.open_shard('things', tmp_path / 'out', files, {}, '.txt')
        found = list(shard.images(3))
        assert [''.join(p.img_id for p in photos) for photos, _ in found] == ['acd', 'e', 'b']
        for photos, pixels in found:
            assert pixels.dtype == np.uint8
            for photo, image in zip(photos, pixels, strict=True):
                assert np.array_equal(image, read_rgb(photo.path))

    def test_damaged(self, files, tmp_path) -> None:
        (tmp_path / 'c.png').write_bytes(b'')
        shard = common.open_shard('things', tmp_path / 'out', files, {}, '.txt')
        for size, whole in ((1, ['a', 'b']), (2, [])):
            seen = []
            with pytest.raises(UserError, match=r'c\.png: expected a whole image file'):
                for photos, _ in shard.images(size):
                    seen += [photo.img_id for photo in photos]
            assert seen == whole


class TestThreads:

    def test_read_ahead(self) -> None:
        made, used = [], []
        for number in common.read_ahead(lambda n: made.append(n) or n, range(4)):
            used.append(number)
            assert len(made) <= len(used) + 1
        assert used == made == [0, 1, 2, 3]
        assert list(common.read_ahead(abs, [])) == []

    def test_next_is_made_while_one_is_used(self) -> None:
        asked = [threading.Event() for _ in range(3)]
        for number in common.read_ahead(lambda n: asked[n].set() or n, range(3)):
            assert all(event.wait(10) for event in asked[:number + 2])

    def test_background_keeps_the_order(self) -> None:
        done: list[int] = []
        with common.in_background() as submit:
            for number in range(50):
                submit(done.append, number)
        assert done == list(range(50))

    def test_background_is_not_too_far_behind(self) -> None:
        release, started = threading.Event(), []

        def work() -> None:
            started.append(1)
            release.wait(10)

        def feed() -> None:
            with common.in_background() as submit:
                for number in range(12):
                    submit(work)
                    fed.append(number)

        fed: list[int] = []
        feeder = threading.Thread(target=feed)
        feeder.start()
        deadline = time.monotonic() + 30
        while (len(fed) < 8 or not started) and time.monotonic() < deadline:
            time.sleep(0.01)
        feeder.join(0.2)  # time for a ninth call to return, if it did not wait
        assert fed == list(range(8)) and len(started) == 1
        release.set()
        feeder.join(10)
        assert len(started) == 12

    def test_threads_work_at_the_same_time(self) -> None:
        meeting, met = threading.Barrier(3), []
        with common.in_background(3) as submit:
            for _ in range(3):
                submit(lambda: met.append(meeting.wait(10)))
        assert sorted(met) == [0, 1, 2]

    def test_an_error_drops_what_waits(self) -> None:
        release, done = threading.Event(), []
        with pytest.raises(ValueError), common.in_background() as submit:
            submit(release.wait, 10)
            submit(done.append, 1)
            threading.Timer(.2, release.set).start()
            raise ValueError
        assert not done

    @pytest.mark.parametrize('late', [False, True])
    def test_an_error_stops_the_work(self, late) -> None:
        """Also if nothing is handed over after it."""
        def fail() -> None:
            raise UserError('disk full')

        handed = 0
        with pytest.raises(UserError, match='disk full'), common.in_background() as submit:
            submit(fail)
            while not late and handed < 10**6:
                submit(time.sleep, .001)
                handed += 1
        assert handed < 100


def test_other_settings(tmp_path, monkeypatch) -> None:
    first, = shards(tmp_path, monkeypatch, 1, dict(scale=1))
    first.output.path('a').write_text('')
    with pytest.raises(UserError, match='scale was 1 and is now 2'):
        shards(tmp_path, monkeypatch, 1, dict(scale=2))
    again = shards(tmp_path, monkeypatch, 2, dict(scale=2), overwrite=True)
    assert [ids(shard) for shard in again] == [['a', 'c', 'e'], ['b', 'd']]


class TestReadRGB:

    @pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'L', 'P', '1'])
    def test_modes(self, tmp_path, mode) -> None:
        image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).convert(mode)
        image.save(tmp_path / 'image.png')
        array = read_rgb(tmp_path / 'image.png')
        assert array.dtype == np.uint8 and array.shape == (4, 5, 3)
        assert np.array_equal(array, np.asarray(image.convert('RGB')))

    @pytest.mark.parametrize('suffix', ['.png', '.tif'])
    def test_orientation(self, tmp_path, suffix) -> None:
        image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned clockwise
        path = tmp_path / f'image{suffix}'
        image.save(path, exif=exif)
        assert np.array_equal(read_rgb(path), np.rot90(np.asarray(image), -1))

    @pytest.mark.parametrize('orientation', [None, 1, 3, 5, 6, 8, 9])
    @pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tif'])
    def test_size_of_the_header_is_that_of_the_pixels(self, tmp_path, suffix, orientation) -> None:
        exif = Image.Exif()
        if orientation is not None:
            exif[0x0112] = orientation
        path = tmp_path / f'image{suffix}'
        Image.new('RGB', (6, 4)).save(path, exif=exif)
        turned = orientation in (5, 6, 8)
        assert image_size(path) == read_rgb(path).shape[:2] == ((6, 4) if turned else (4, 6))

    @pytest.mark.parametrize(('suffix', 'dtype'), [
        ('.png', np.uint16), ('.tif', np.uint16), ('.tif', np.int32), ('.tif', np.float32)])
    def test_more_than_8_bits(self, tmp_path, suffix, dtype) -> None:
        path = tmp_path / f'image{suffix}'
        Image.fromarray(np.full((4, 6), 300, dtype)).save(path)
        for read in (read_rgb, image_size):
            with pytest.raises(UserError, match=rf'image\{suffix}: .* 8 bits a colour, .*Convert'):
                read(path)

    def test_missing(self, tmp_path) -> None:
        with pytest.raises(UserError, match=r'gone\.png: no such image'):
            read_rgb(tmp_path / 'gone.png')

    @pytest.mark.parametrize('damage', [lambda data: data[:-200], lambda data: b'',
                                        lambda data: b'no image at all', lambda data: data[:10]])
    def test_damaged(self, tmp_path, damage) -> None:
        path = tmp_path / 'image.png'
        noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(UserError, match=r'image\.png: expected a whole image file'):
            read_rgb(path)
