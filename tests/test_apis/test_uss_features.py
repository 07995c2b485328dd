from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmseg_dhr.apis import extract_uss_features, list_photos, read_rgb, write_uss_features
from mmseg_dhr.formats import read_features
from mmseg_dhr.models import ColorTextureUSS, ViTUSS
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
