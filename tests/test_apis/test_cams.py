from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmseg_dhr.apis import (
    cams,
    list_photos,
    multi_scale_cam,
    multi_scale_cams,
    read_rgb,
    write_cams,
)
from mmseg_dhr.formats import Manifest, read_cam
from mmseg_dhr.ops import Climbing, climb
from mmseg_dhr.utils import UserError

MEAN = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
STD = torch.tensor([58.395, 57.12, 57.375])[:, None, None]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (45, 38, 3), np.uint8)


def maps_by_hand(model, pixels, grid):
    """Rectified class maps of one normalised view, (K, h, w)."""
    with torch.no_grad():
        deep = model.segmentor.backbone(((pixels - MEAN) / STD)[None])[-1][0]
    maps = torch.einsum('kc,chw->khw', model.cam_head.classifier.weight[:, :, 0, 0], deep).relu()
    return F.interpolate(maps[None], size=grid, mode='bilinear', align_corners=False)[0]


def test_single_scale_by_hand(model, image) -> None:
    cam = multi_scale_cam(model, image, (2, 5), flip=False)
    maps = maps_by_hand(model, torch.from_numpy(image).permute(2, 0, 1).float(), (12, 10))
    expected = torch.stack([maps[1] / maps[1].max(), maps[4] / maps[4].max()])
    torch.testing.assert_close(cam, expected)
    assert cam.amax((1, 2)).tolist() == pytest.approx([1, 1])


def test_scales_and_flips_are_averaged(model, image) -> None:
    cam = multi_scale_cam(model, image, (3, ), scales=(1.0, 0.5), flip=True, stride=8)
    whole = torch.from_numpy(image).permute(2, 0, 1).float()
    half = F.interpolate(whole[None], size=(22, 19), mode='bilinear', antialias=True)[0]
    total = sum(maps_by_hand(model, view, (6, 5)) +
                maps_by_hand(model, view.flip(-1), (6, 5)).flip(-1) for view in (whole, half))
    torch.testing.assert_close(cam[0], total[2] / total[2].max())


def test_mirrored_image_has_the_mirrored_cam(model, image) -> None:
    cam = multi_scale_cam(model, image, (1, 4), scales=(1.0, 1.5))
    mirrored = multi_scale_cam(model, image[:, ::-1].copy(), (1, 4), scales=(1.0, 1.5))
    torch.testing.assert_close(mirrored, cam.flip(-1), rtol=0, atol=1e-3)
    assert (cam - cam.flip(-1)).abs().max() > 0.1


def test_no_tag(model, image) -> None:
    assert multi_scale_cam(model, image, ()).shape == (0, 12, 10)


def test_class_that_fires_nowhere(model, image) -> None:
    model.cam_head.classifier.weight.data[0] = -1  # features are not negative
    cam = multi_scale_cam(model, image, (1, 2))
    assert cam[0].abs().max() == 0 and cam[1].max() == 1


def test_tiny_image(model) -> None:
    cam = multi_scale_cam(model, np.full((1, 3, 3), 9, np.uint8), (1, ), scales=(0.5, 1.0))
    assert cam.shape == (1, 1, 1) and cam.isfinite().all()


@pytest.mark.parametrize(('scales', 'flip'), [((1.0, ), False), ((0.5, 1.0, 1.5), True)])
def test_batch_equals_one_by_one(model, scales, flip) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 45, 38, 3), np.uint8)
    tags = [(2, 5), (), (1, ), (3, 4, 8)]
    found = multi_scale_cams(model, images, tags, scales, flip)
    for cam, image, labels in zip(found, images, tags, strict=True):
        expected = multi_scale_cam(model, image, labels, scales, flip)
        assert cam.shape == (len(labels), 12, 10)
        torch.testing.assert_close(cam, expected, rtol=1e-4, atol=1e-4)


def test_only_the_contract_is_asked_for(model, image) -> None:
    """Any network with these three and a parameter will do."""

    class Bare(torch.nn.Module):

        def __init__(self) -> None:
            super().__init__()
            self.cam_head = model.cam_head

        def rgb_to_inputs(self, images: torch.Tensor) -> torch.Tensor:
            return model.rgb_to_inputs(images)

        def cam_maps(self, inputs: torch.Tensor) -> torch.Tensor:
            return model.cam_maps(inputs)

    torch.testing.assert_close(multi_scale_cam(Bare(), image, (2, 5)),
                               multi_scale_cam(model, image, (2, 5)))


def test_climbing_by_hand(model, image) -> None:
    """Every tag climbs on its own, and so does the mirrored image."""
    climbing = Climbing(2, 0.5)
    found = multi_scale_cam(model, image, (2, 5), climbing=climbing)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()
    inputs = ((pixels - MEAN) / STD)[None]
    for cam, channel in zip(found, (1, 4), strict=True):
        views = [climb(model.cam_maps, view, torch.tensor([channel]), climbing)
                 for view in (inputs, inputs.flip(-1))]
        total = sum(F.interpolate(view[None], size=(12, 10), mode='bilinear')[0, 0]
                    for view in (views[0], views[1].flip(-1)))
        torch.testing.assert_close(cam, total / total.max(), rtol=1e-3, atol=1e-3)
    plain = multi_scale_cam(model, image, (2, 5))
    assert (found - plain).abs().max() > 0.01
    torch.testing.assert_close(
        multi_scale_cam(model, image, (2, 5), climbing=Climbing(0)), plain, rtol=1e-4, atol=1e-4)


def test_climbing_of_a_batch_equals_one_by_one(model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 30, 38, 3), np.uint8)
    tags, climbing = [(2, 5), (), (1, )], Climbing(2, 0.5)
    found = multi_scale_cams(model, images, tags, climbing=climbing)
    for cam, image, labels in zip(found, images, tags, strict=True):
        expected = multi_scale_cam(model, image, labels, climbing=climbing)
        torch.testing.assert_close(cam, expected, rtol=1e-3, atol=1e-3)


class TestWriteCams:

    def test_files(self, model, scenes, tmp_path) -> None:
        assert write_cams(model, scenes, tmp_path / 'cams', scales=(1.0, 0.5)) == tmp_path / 'cams'
        for photo in list_photos(scenes):
            labels, maps = read_cam(tmp_path / 'cams' / f'{photo.img_id}.npz')
            assert tuple(labels) == photo.tags
            expected = multi_scale_cam(model, read_rgb(photo.path), photo.tags, (1.0, 0.5))
            assert np.array_equal(maps, expected.numpy().astype(np.float16))

    def test_goes_on_where_it_stopped(self, model, scenes, tmp_path, monkeypatch) -> None:
        write_cams(model, scenes, tmp_path)
        gone = tmp_path / f'{scenes.image_ids[2]}.npz'
        content = read_cam(gone)
        gone.unlink()
        made, real = [], cams.multi_scale_cams
        monkeypatch.setattr(cams, 'multi_scale_cams',
                            lambda *args, **more: made.append(1) or real(*args, **more))
        write_cams(model, scenes, tmp_path)
        assert len(made) == 1
        assert np.array_equal(read_cam(gone).maps, content.maps)

    def test_changed_tags_are_made_anew(self, model, scenes, tmp_path) -> None:
        write_cams(model, scenes, tmp_path)
        before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob('*.npz')}
        scenes._labels = ((7, ), *scenes._labels[1:])
        write_cams(model, scenes, tmp_path)
        first = tmp_path / f'{scenes.image_ids[0]}.npz'
        assert read_cam(first).labels.tolist() == [7]
        assert [name for name, time in before.items()
                if (tmp_path / name).stat().st_mtime_ns != time] == [first.name]

    def test_batches(self, build_model, photos, scenes, tmp_path) -> None:
        """Images of one size, and of three."""
        for name, dataset, count in (('scenes', scenes, 9), ('photos', photos, 3)):
            model, folder = build_model(num_classes=count), tmp_path / name
            write_cams(model, dataset, folder / '1')
            write_cams(model, dataset, folder / '4', batch_size=4)
            for photo in list_photos(dataset):
                one, four = (read_cam(folder / size / f'{photo.img_id}.npz') for size in '14')
                assert np.array_equal(one.labels, four.labels)
                np.testing.assert_allclose(four.maps, one.maps, atol=2e-3)  # float16

    def test_an_error_of_the_writer_stops(self, model, scenes, tmp_path, monkeypatch) -> None:
        def fail(path, *_):
            raise OSError(f'{path}: disk full')

        monkeypatch.setattr(cams, 'write_cam', fail)
        with pytest.raises(OSError, match=f'{scenes.image_ids[0]}.npz: disk full'):
            write_cams(model, scenes, tmp_path)
        assert not Manifest.load(tmp_path).complete and not list(tmp_path.glob('*.npz'))

    def test_other_settings_or_weights(self, model, scenes, tmp_path) -> None:
        write_cams(model, scenes, tmp_path)
        with pytest.raises(UserError, match='flip was True and is now False'):
            write_cams(model, scenes, tmp_path, flip=False)
        with pytest.raises(UserError, match='climbing was None and is now'):
            write_cams(model, scenes, tmp_path, climbing=Climbing(1))
        model.cam_head.classifier.weight.data.neg_()
        with pytest.raises(UserError, match='weights was'):
            write_cams(model, scenes, tmp_path)
        write_cams(model, scenes, tmp_path, overwrite=True)
        photo = list_photos(scenes)[0]
        expected = multi_scale_cam(model, read_rgb(photo.path), photo.tags)
        assert np.array_equal(read_cam(tmp_path / f'{photo.img_id}.npz').maps,
                              expected.numpy().astype(np.float16))
