from __future__ import annotations

import numpy as np
import pytest

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
from mmseg_dhr.formats import read_mask
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
        write_base_masks(scenes, tmp_path / 'cam', PLAIN, cam_dir=tmp_path / 'cams')
        write_base_masks(scenes, tmp_path / 'model', PLAIN, model)
        assert files(tmp_path / 'cam') == files(tmp_path / 'model')

    def test_other_cams_at_the_same_path(self, build_model, scenes, tmp_path) -> None:
        for seed in range(2):
            write_cams(build_model(seed), scenes, tmp_path / 'cams', overwrite=True)
            if seed:
                with pytest.raises(UserError, match='cams was'):
                    write_base_masks(scenes, tmp_path / 'cam', PLAIN, cam_dir=tmp_path / 'cams')
            write_base_masks(scenes, tmp_path / 'cam', PLAIN, cam_dir=tmp_path / 'cams',
                             overwrite=True)
        write_base_masks(scenes, tmp_path / 'model', PLAIN, build_model(1))
        assert files(tmp_path / 'cam') == files(tmp_path / 'model')

    def test_killed_and_run_again(self, model, scenes, tmp_path, monkeypatch) -> None:
        write_base_masks(scenes, tmp_path / 'whole', PLAIN, model)
        real, made = base_masks.write_mask, []

        def stop_at_third(path, *args):
            made.append(path)
            if len(made) == 3:
                raise KeyboardInterrupt
            real(path, *args)

        monkeypatch.setattr(base_masks, 'write_mask', stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            write_base_masks(scenes, tmp_path / 'killed', PLAIN, model)
        assert len(files(tmp_path / 'killed')) == 2
        write_base_masks(scenes, tmp_path / 'killed', PLAIN, model)
        assert len(made) == 7  # two, the one that failed, the four that were missing
        assert files(tmp_path / 'killed') == files(tmp_path / 'whole')

    def test_odd_sizes_and_no_tag(self, build_model, photos, tmp_path) -> None:
        write_base_masks(photos, tmp_path / 'out', BaseMaskSettings(crf=dict(iterations=1)),
                         build_model(num_classes=3))
        masks = {name: read_mask(tmp_path / 'out' / f'{name}.png') for name in 'abc'}
        assert [masks[name].shape for name in 'abc'] == [(41, 37), (30, 64), (33, 50)]
        assert np.unique(masks['c']).tolist() == [0]

    @pytest.mark.parametrize('sources', [{}, dict(model=1, cam_dir='cams')])
    def test_one_source(self, scenes, tmp_path, sources) -> None:
        with pytest.raises(ValueError, match='exactly one of `model` and `cam_dir`'):
            write_base_masks(scenes, tmp_path, PLAIN, **sources)
