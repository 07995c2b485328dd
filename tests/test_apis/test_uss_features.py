from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import TRANSFORMS

from mmseg_dhr.apis import extract_uss_features, list_photos, read_rgb, write_uss_features
from mmseg_dhr.formats import Manifest, read_features
from mmseg_dhr.models import ColorTextureUSS, ViTUSS
from mmseg_dhr.models.uss import MultiScaleUSS
from mmseg_dhr.utils import UserError


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def pixels(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def test_single_scale_is_the_encoder(image) -> None:
    encoder = ColorTextureUSS(frequencies=4)
    features = extract_uss_features(encoder, image)
    assert features.shape == (8, 6, 10)
    assert torch.equal(features, encoder(pixels(image))[0][0])


def test_views_are_averaged_on_the_finest_grid(image) -> None:
    encoder = ColorTextureUSS(frequencies=4)
    features = extract_uss_features(encoder, image, scales=(0.5, 1.0), flip=True)
    half = F.interpolate(pixels(image), size=(12, 20), mode='bilinear', antialias=True)
    whole = encoder(pixels(image))[0] + encoder(pixels(image).flip(-1))[0].flip(-1)
    coarse = encoder(half)[0] + encoder(half.flip(-1))[0].flip(-1)
    coarse = F.interpolate(coarse, size=(6, 10), mode='bilinear', align_corners=False)
    torch.testing.assert_close(features, (whole + coarse)[0] / 4)


def test_files(scenes, tmp_path) -> None:
    encoder = ColorTextureUSS(frequencies=4)
    assert write_uss_features(encoder, scenes, tmp_path, flip=True) == tmp_path
    for photo in list_photos(scenes):
        stored = read_features(tmp_path / f'{photo.img_id}.safetensors')
        expected = extract_uss_features(encoder, read_rgb(photo.path), flip=True)
        assert torch.equal(stored, expected.half())


def test_batches(photos, scenes, tmp_path) -> None:
    """Images of three sizes, and of one."""
    encoder = ViTUSS('test_vit')
    for name, dataset in (('photos', photos), ('scenes', scenes)):
        for size in (1, 4):
            write_uss_features(encoder, dataset, tmp_path / name / str(size), flip=True,
                               batch_size=size)
        for photo in list_photos(dataset):
            one, four = (read_features(tmp_path / name / size / f'{photo.img_id}.safetensors')
                         for size in '14')
            torch.testing.assert_close(four, one, rtol=2e-3, atol=2e-3)
            assert one.float().std() > .1


@pytest.mark.parametrize('other', [
    lambda: ColorTextureUSS(frequencies=4, stride=8),
    lambda: ColorTextureUSS(frequencies=5),
    lambda: ColorTextureUSS(frequencies=4, bandwidth=2.0),
    lambda: ViTUSS('test_vit'),
])
def test_cache_of_another_encoder(scenes, tmp_path, other) -> None:
    write_uss_features(ColorTextureUSS(frequencies=4), scenes, tmp_path)
    before = read_features(tmp_path / f'{scenes.image_ids[0]}.safetensors')
    write_uss_features(ColorTextureUSS(frequencies=4), scenes, tmp_path)  # the same goes on
    with pytest.raises(UserError, match='made with other settings'):
        write_uss_features(other(), scenes, tmp_path)
    write_uss_features(other(), scenes, tmp_path, overwrite=True)
    after = read_features(tmp_path / f'{scenes.image_ids[0]}.safetensors')
    assert before.shape != after.shape or not torch.equal(before, after)


def test_cache_of_another_normalisation(scenes, tmp_path) -> None:
    torch.manual_seed(0)
    write_uss_features(ViTUSS('test_vit'), scenes, tmp_path)
    torch.manual_seed(0)
    with pytest.raises(UserError, match='made with other settings: weights was'):
        write_uss_features(ViTUSS('test_vit', mean=(0, 0, 0)), scenes, tmp_path)


def test_missing_weights(scenes, tmp_path) -> None:
    encoder = ViTUSS('test_vit', str(tmp_path / 'absent.safetensors'))
    with pytest.raises(UserError, match=r'absent\.safetensors'):
        write_uss_features(encoder, scenes, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


class TestMultiScale:

    @pytest.mark.parametrize(('scales', 'flip'), [
        ((1.0, ), False), ((1.0, ), True), ((0.5, 1.0, 1.5, 2.0), True), ((0.75, ), False)])
    def test_batch_equals_images_one_by_one(self, scales, flip) -> None:
        images = torch.randint(0, 256, (3, 3, 40, 56), dtype=torch.uint8)
        plain = ViTUSS('test_vit')
        encoder = MultiScaleUSS(dict(type='ViTUSS', model_name='test_vit'), scales, flip)
        encoder.encoder.vit.load_state_dict(plain.vit.state_dict())
        features, = encoder(images)
        finest = max(scales)
        assert features.shape == (3, 64, round(40 * finest / 16), round(56 * finest / 16))
        for found, image in zip(features, images, strict=True):
            expected = extract_uss_features(plain, image.permute(1, 2, 0).numpy(), scales, flip)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize('encoder', [
        dict(type='ViTUSS', model_name='test_vit'),
        dict(type='STEGO', backbone=dict(model_name='test_vit')),
        dict(type='CAUSETR', backbone=dict(model_name='test_vit'), num_heads=4),
    ], ids=lambda encoder: encoder['type'])
    @pytest.mark.parametrize('wrapped', [True, False])
    def test_cached_equal_online(self, encoder, wrapped, photos, tmp_path) -> None:
        """To 1e-3 of the features' size, on images as they are (41x37, 30x64, 33x50)."""
        settings = dict(scales=(0.5, 1.0, 1.5, 2.0), flip=True)
        online = MultiScaleUSS(encoder, **settings)
        if wrapped:  # the config's encoder is the wrapper, or the command is told the views
            write_uss_features(online, photos, tmp_path / 'cache')
        else:
            write_uss_features(online.encoder, photos, tmp_path / 'cache', **settings)
        for photo in list_photos(photos):
            pixels = torch.from_numpy(read_rgb(photo.path)).permute(2, 0, 1)[None]
            expected = online(pixels)[0][0]
            cached = self.load(tmp_path / 'cache', photo, expected.shape[-2:])
            scale = expected.square().mean().sqrt()
            assert cached.shape == expected.shape and scale > 1e-3
            assert expected.std((1, 2)).max() > .05 * scale  # no constant map
            assert (cached - expected).abs().max() < 1e-3 * expected.abs().max()

    def load(self, cache, photo, grid):
        load = TRANSFORMS.build(dict(type='LoadImageFromFile'))
        track = TRANSFORMS.build(dict(type='TrackGeometry', transforms=[]))
        features = TRANSFORMS.build(dict(type='LoadUSSFeatures', cache_dir=str(cache),
                                         grid=tuple(grid)))
        results = dict(img_path=str(photo.path), img_id=photo.img_id, seg_fields=[])
        return features(track(load(results)))['uss_features']

    def test_cache_of_other_views(self, scenes, tmp_path) -> None:
        config = dict(type='ColorTextureUSS', frequencies=4)
        write_uss_features(MultiScaleUSS(config, (1.0, ), True), scenes, tmp_path)
        with pytest.raises(UserError, match='made with other settings'):
            write_uss_features(MultiScaleUSS(config, (1.0, ), False), scenes, tmp_path)
        with pytest.raises(UserError, match='made with other settings'):
            write_uss_features(MultiScaleUSS(dict(config, stride=8), (1.0, ), True), scenes,
                               tmp_path)

    def test_reads_the_files_of_its_encoder(self, tmp_path) -> None:
        encoder = MultiScaleUSS(dict(type='ViTUSS', model_name='test_vit',
                                     checkpoint=str(tmp_path / 'absent.safetensors')))
        assert encoder.out_channels == 64
        for start in (encoder.init_weights, lambda: encoder(torch.zeros(1, 3, 16, 16))):
            with pytest.raises(UserError, match=r'absent\.safetensors'):
                start()

    @pytest.mark.parametrize('scales', [(), (1.0, 0), (-1.0, )])
    def test_no_such_scales(self, scales) -> None:
        with pytest.raises(ValueError, match='positive scales'):
            MultiScaleUSS(dict(type='ColorTextureUSS'), scales)


def test_settings_of_caches_that_are_out_there(scenes, tmp_path) -> None:
    """Other names would make them 'of other settings'."""
    write_uss_features(ViTUSS('test_vit'), scenes, tmp_path)
    settings = Manifest.load(tmp_path).settings
    del settings['weights']
    assert settings == dict(kind='uss', scales=[1.0], flip=False, encoder='ViTUSS',
                            options=dict(block=5, norm=True, scale=1.0))
