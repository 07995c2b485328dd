from __future__ import annotations

import numpy as np
import pytest
import torch

from mmseg_dhr.apis import (
    BaseMaskSettings,
    base_masks,
    list_photos,
    mask_from_cam,
    multi_scale_cam,
    read_rgb,
    write_base_masks,
    write_cams,
)
from mmseg_dhr.formats import Manifest, read_mask, write_mask
from mmseg_dhr.ops import DenseCRFParams, dense_crf
from mmseg_dhr.utils import UserError

IMAGE = np.zeros((2, 3, 3), np.uint8)
CAM = np.array([[[0.9, 0.2, 0.0], [0.5, 0.4, 0.1]],
                [[0.1, 0.6, 0.25], [0.6, 0.3, 0.0]]], np.float32)
PLAIN = BaseMaskSettings(crf=None)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob('*.png'))}


class TestMaskFromCam:

    @pytest.mark.parametrize(('settings', 'expected'), [
        (PLAIN, [[3, 7, 0], [7, 3, 0]]),
        (PLAIN._replace(background_constant=0.55), [[3, 7, 0], [7, 0, 0]]),
        # (1 - max)^2 = .01 .16 .5625 / .16 .36 .81
        (PLAIN._replace(background_constant=None, background_power=2.0), [[3, 7, 0], [7, 3, 0]]),
        # (1 - max)^(1/2) = .32 .63 .87 / .63 .77 .95
        (PLAIN._replace(background_constant=None, background_power=0.5), [[3, 0, 0], [0, 0, 0]]),
        (PLAIN._replace(background_index=None), [[3, 7, 7], [7, 3, 3]]),
        (PLAIN._replace(background_index=8), [[3, 7, 8], [7, 3, 8]]),
    ])
    def test_by_hand(self, settings, expected) -> None:
        mask = mask_from_cam(IMAGE, CAM, (3, 7), settings)
        assert mask.dtype == np.uint8 and mask.tolist() == expected

    @pytest.mark.parametrize(('index', 'label'), [(0, 0), (4, 4), (None, 255)])
    def test_no_tag(self, index, label) -> None:
        for crf in (None, {}):
            mask = mask_from_cam(IMAGE, np.zeros((0, 1, 1)), (),
                                 BaseMaskSettings(crf=crf, background_index=index))
            assert mask.tolist() == [[label] * 3] * 2

    def test_cam_is_enlarged(self) -> None:
        image = np.zeros((4, 8, 3), np.uint8)
        cam = np.array([[[1.0, 0.0]], [[0.0, 0.8]]])
        # linear between the centres of the cells, x = 2 and 6: (6 - x) and .8 (x - 2) meet at 4.2
        assert mask_from_cam(image, cam, (1, 2), PLAIN).tolist() == [[1] * 4 + [2] * 4] * 4

    def test_crf(self) -> None:
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (12, 10, 3), np.uint8)
        cam = rng.random((2, 12, 10), np.float32)
        probs = np.concatenate([np.full((1, 12, 10), 0.3, np.float32), cam])
        params = DenseCRFParams(iterations=3, bilateral_sxy=5)
        expected = np.array([0, 4, 6])[dense_crf(image, probs, params).argmax(0)]
        settings = BaseMaskSettings(crf=dict(iterations=3, bilateral_sxy=5))
        mask = mask_from_cam(image, cam, (4, 6), settings)
        assert np.array_equal(mask, expected)
        assert (mask != mask_from_cam(image, cam, (4, 6), PLAIN)).any()

    def test_crf_backend(self) -> None:
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (12, 10, 3), np.uint8)
        cam = rng.random((1, 12, 10), np.float32)
        probs = np.concatenate([np.full((1, 12, 10), 0.3, np.float32), cam])
        settings = BaseMaskSettings(crf=dict(backend='torch', iterations=3))
        expected = dense_crf(image, probs, DenseCRFParams(iterations=3), 'torch').argmax(0)
        assert np.array_equal(mask_from_cam(image, cam, (1, ), settings), expected)
        with pytest.raises(ValueError, match='abacus'):
            mask_from_cam(image, cam, (1, ), BaseMaskSettings(crf=dict(backend='abacus')))

    def test_background_of_the_seeds(self) -> None:
        own = np.array([[0.8, 0.7, 0.0], [0.0, 0.35, 0.2]], np.float32)
        mask = mask_from_cam(IMAGE, CAM, (3, 7), PLAIN, own)
        assert mask.tolist() == [[3, 0, 7], [7, 3, 0]]
        assert mask_from_cam(IMAGE, CAM[:0], (), PLAIN, own).tolist() == [[0] * 3] * 2


class TestWriteBaseMasks:

    def test_from_a_model(self, model, scenes, tmp_path) -> None:
        write_base_masks(scenes, tmp_path, PLAIN, model, scales=(1.0, 0.5))
        for photo in list_photos(scenes):
            image = read_rgb(photo.path)
            cam = multi_scale_cam(model, image, photo.tags, (1.0, 0.5)).half().numpy()
            mask = read_mask(tmp_path / f'{photo.img_id}.png')
            assert np.array_equal(mask, mask_from_cam(image, cam, photo.tags, PLAIN))
            assert set(np.unique(mask)) <= {0, *photo.tags}

    def test_threads_give_the_same(self, model, scenes, tmp_path) -> None:
        settings = BaseMaskSettings(crf=dict(iterations=2))
        for threads in (1, 3):
            write_base_masks(scenes, tmp_path / str(threads), settings, model, threads=threads)
        assert files(tmp_path / '1') == files(tmp_path / '3')
        assert len(files(tmp_path / '1')) == 6

    def test_batches(self, build_model, photos, scenes, tmp_path) -> None:
        """Images of one size, and of three."""
        for name, dataset, count in (('scenes', scenes, 9), ('photos', photos, 3)):
            model, folder = build_model(num_classes=count), tmp_path / name
            write_base_masks(dataset, folder / '1', PLAIN, model)
            write_base_masks(dataset, folder / '4', PLAIN, model, batch_size=4)
            for photo in list_photos(dataset):
                one, four = (read_mask(folder / size / f'{photo.img_id}.png') for size in '14')
                # A pixel on the border of two classes may change sides by rounding.
                assert (one == four).mean() > 0.99

    def test_from_a_cam_folder_gives_the_same(self, model, scenes, tmp_path) -> None:
        write_cams(model, scenes, tmp_path / 'cams')
        write_base_masks(scenes, tmp_path / 'cam', PLAIN, seeds=tmp_path / 'cams')
        write_base_masks(scenes, tmp_path / 'model', PLAIN, model)
        assert files(tmp_path / 'cam') == files(tmp_path / 'model')

    def test_other_cams_at_the_same_path(self, build_model, scenes, tmp_path) -> None:
        for seed in range(2):
            write_cams(build_model(seed), scenes, tmp_path / 'cams', overwrite=True)
            if seed:
                with pytest.raises(UserError, match='seeds was'):
                    write_base_masks(scenes, tmp_path / 'cam', PLAIN, seeds=tmp_path / 'cams')
            write_base_masks(scenes, tmp_path / 'cam', PLAIN, seeds=tmp_path / 'cams',
                             overwrite=True)
        write_base_masks(scenes, tmp_path / 'model', PLAIN, build_model(1))
        assert files(tmp_path / 'cam') == files(tmp_path / 'model')

    def test_killed_and_run_again(self, model, scenes, tmp_path, monkeypatch) -> None:
        write_base_masks(scenes, tmp_path / 'whole', PLAIN, model)
        real, made = base_masks.write_mask, []

        def stop_at_third(path, *args):
            made.append(path)
            if len(made) >= 3:  # the next may have begun before the stop is noticed
                raise KeyboardInterrupt
            real(path, *args)

        monkeypatch.setattr(base_masks, 'write_mask', stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            write_base_masks(scenes, tmp_path / 'killed', PLAIN, model)
        assert len(files(tmp_path / 'killed')) == 2
        made.clear()
        monkeypatch.setattr(base_masks, 'write_mask',
                            lambda path, *args: made.append(path) or real(path, *args))
        write_base_masks(scenes, tmp_path / 'killed', PLAIN, model)
        assert len(made) == 4  # those that were missing
        assert files(tmp_path / 'killed') == files(tmp_path / 'whole')

    def test_odd_sizes_and_no_tag(self, build_model, photos, tmp_path) -> None:
        write_base_masks(photos, tmp_path / 'out', BaseMaskSettings(crf=dict(iterations=1)),
                         build_model(num_classes=3))
        masks = {name: read_mask(tmp_path / 'out' / f'{name}.png') for name in 'abc'}
        assert [masks[name].shape for name in 'abc'] == [(41, 37), (30, 64), (33, 50)]
        assert np.unique(masks['c']).tolist() == [0]

    @pytest.mark.parametrize('sources', [{}, dict(model=1, seeds='cams')])
    def test_one_source(self, scenes, tmp_path, sources) -> None:
        with pytest.raises(ValueError, match='exactly one of `model` and `seeds`'):
            write_base_masks(scenes, tmp_path, PLAIN, **sources)
    def test_seeds_in_the_output_folder(self, photos, tmp_path) -> None:
        write_mask(tmp_path / 'out/a.png', np.zeros((41, 37), int), [[0, 0, 0]])
        with pytest.raises(UserError, match='out: it is read here'):
            write_base_masks(photos, tmp_path / 'out', PLAIN, seeds=tmp_path / 'x/../out',
                             overwrite=True)
        assert (tmp_path / 'out/a.png').is_file()


SEEDS = dict(  # of the three images of the fixture `photos`: tags (1, 2), (2,) and none
    a=np.random.default_rng(0).random((2, 41, 37), np.float32)**4,
    b=np.linspace(0, 1, 30 * 64, dtype=np.float32).reshape(1, 30, 64), c=np.zeros((0, 33, 50)))
KEYS = dict(a=[0, 1], b=[1], c=[])


def by_class(name):
    return dict(zip(KEYS[name], SEEDS[name], strict=True))


def with_keys(name):
    return dict(keys=torch.tensor(KEYS[name], dtype=torch.long),
                cam=torch.from_numpy(SEEDS[name][:, ::4, ::4]), high_res=SEEDS[name])


class TestSeeds:

    @pytest.fixture
    def folder(self, tmp_path):
        def write(content, name='seeds'):
            (tmp_path / name).mkdir(exist_ok=True)
            for image in KEYS:
                np.save(tmp_path / name / f'{image}.npy', content(image))
            return tmp_path / name
        return write

    @pytest.mark.parametrize(('content', 'flavour', 'settings', 'background'), [
        (by_class, 'auto', PLAIN, lambda best: (1 - best)**16),
        (by_class, 'seam', PLAIN, lambda best: (1 - best)**6),
        (by_class, 'mctformer', PLAIN, lambda best: 0.39 + 0 * best),
        (with_keys, 'auto', PLAIN, lambda best: 0.3 + 0 * best),
        (with_keys, 'advcam', PLAIN, lambda best: 0.35 + 0 * best),
        (by_class, 'auto', PLAIN._replace(background_constant=0.7), lambda best: 0.7 + 0 * best),
        (with_keys, 'auto', PLAIN._replace(background_power=2.0), lambda best: (1 - best)**2),
    ])
    def test_backgrounds(self, photos, folder, tmp_path, content, flavour, settings,
                         background) -> None:
        write_base_masks(photos, tmp_path / 'out', settings, seeds=folder(content), flavour=flavour)
        for name, maps in SEEDS.items():
            mask = read_mask(tmp_path / 'out' / f'{name}.png')
            best = maps.max(0, initial=0)
            winner = np.array([key + 1 for key in KEYS[name]] or [0])[
                maps.argmax(0) if len(maps) else np.zeros(best.shape, int)]
            assert np.array_equal(mask, np.where(best > background(best), winner, 0))
        assert set(np.unique(read_mask(tmp_path / 'out/a.png'))) == {0, 1, 2}

    def test_masks_are_taken_as_they_are(self, photos, tmp_path) -> None:
        rng = np.random.default_rng(0)
        sizes = dict(a=(41, 37), b=(30, 64), c=(33, 50))
        masks = {name: rng.choice([0, 2, 255], size) if name != 'c' else np.zeros(size, int)
                 for name, size in sizes.items()}
        for name, mask in masks.items():
            write_mask(tmp_path / 'masks' / f'{name}.png', mask, [[0, 0, 0]])
        write_base_masks(photos, tmp_path / 'out', BaseMaskSettings(), seeds=tmp_path / 'masks')
        for name, mask in masks.items():
            assert np.array_equal(read_mask(tmp_path / 'out' / f'{name}.png'), mask)
        assert Manifest.load(tmp_path / 'out').complete

    def test_other_seeds_at_the_same_path(self, photos, folder, tmp_path) -> None:
        write_base_masks(photos, tmp_path / 'out', PLAIN, seeds=folder(by_class))
        first = files(tmp_path / 'out')
        np.save(tmp_path / 'seeds/b.npy', {1: SEEDS['b'][0] / 4})
        with pytest.raises(UserError, match='seeds was'):
            write_base_masks(photos, tmp_path / 'out', PLAIN, seeds=tmp_path / 'seeds')
        assert files(tmp_path / 'out') == first
        write_base_masks(photos, tmp_path / 'out', PLAIN, seeds=tmp_path / 'seeds', overwrite=True)
        changed = {name for name, content in files(tmp_path / 'out').items()
                   if content != first[name]}
        assert changed == {'b.png'}

    def test_killed_and_run_again(self, photos, folder, tmp_path, monkeypatch) -> None:
        seeds, real, made = folder(by_class), base_masks.write_mask, []

        def stop_at_second(path, *args):
            made.append(path)
            if len(made) >= 2:
                raise KeyboardInterrupt
            real(path, *args)

        monkeypatch.setattr(base_masks, 'write_mask', stop_at_second)
        with pytest.raises(KeyboardInterrupt):
            write_base_masks(photos, tmp_path / 'out', PLAIN, seeds=seeds)
        made.clear()
        monkeypatch.setattr(base_masks, 'write_mask',
                            lambda path, *args: made.append(path) or real(path, *args))
        write_base_masks(photos, tmp_path / 'out', PLAIN, seeds=seeds)
        assert sorted(path.name for path in made) == ['b.png', 'c.png']
        write_base_masks(photos, tmp_path / 'whole', PLAIN, seeds=seeds)
        assert files(tmp_path / 'out') == files(tmp_path / 'whole')

    def test_bad_seeds_leave_no_mask(self, photos, folder, tmp_path) -> None:
        seeds = folder(by_class)
        np.save(seeds / 'c.npy', {0: np.full((33, 50), np.nan)})
        with pytest.raises(UserError, match='1 of 3 files hold NaN or infinity: c'):
            write_base_masks(photos, tmp_path / 'out', PLAIN, seeds=seeds)
        assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('settings', 'scales', 'message'), [
    (dict(background_constant=1.5), (1.0, ), 'between 0 and 1, but got 1.5'),
    (dict(background_constant=0), (1.0, ), 'between 0 and 1, but got 0'),
    (dict(background_power=-2), (1.0, ), 'positive exponent of the background, but got -2'),
    ({}, (), 'positive scales'), ({}, (1.0, -1), r'positive scales, but got \[1.0, -1\]')])
def test_senseless_settings(model, scenes, tmp_path, settings, scales, message) -> None:
    with pytest.raises(ValueError, match=message):
        write_base_masks(scenes, tmp_path, BaseMaskSettings(**settings), model, scales=scales)
