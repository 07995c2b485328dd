from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmseg_dhr.apis import Photo, common, list_photos, read_rgb
from mmseg_dhr.formats import Manifest
from mmseg_dhr.utils import UserError

PHOTOS = [Photo(name, f'{name}.png', (1, )) for name in 'abcde']


def shards(folder, monkeypatch, world, settings=None, **options):
    """What each of several processes is given; rank 0 opens the folder first."""
    result = []
    for rank in range(world):
        monkeypatch.setattr(common, 'get_dist_info', lambda: (rank, world))
        result.append(common.open_shard(folder, PHOTOS, settings or {}, '.txt', **options))
    return result


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


def test_only_what_is_missing_is_made(tmp_path, monkeypatch) -> None:
    shard, = shards(tmp_path, monkeypatch, 1)
    for name in 'ad':
        shard.output.path(name).write_text('')
    with pytest.raises(RuntimeError, match="3 of 5 files are missing, among them .'b', 'c', 'e'"):
        shard.finish()
    assert [ids(s) for s in shards(tmp_path, monkeypatch, 2)] == [['c', 'e'], ['b']]
    shard, = shards(tmp_path, monkeypatch, 1)
    for photo in shard.progress('test'):
        shard.output.path(photo.img_id).write_text('')
    shard.finish()
    assert Manifest.load(tmp_path).complete
    assert ids(shards(tmp_path, monkeypatch, 1)[0]) == []


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

    def test_orientation(self, tmp_path) -> None:
        image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned clockwise
        image.save(tmp_path / 'image.png', exif=exif)
        assert np.array_equal(read_rgb(tmp_path / 'image.png'), np.rot90(np.asarray(image), -1))

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
