from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_dhr.datasets.scenes import GROUPS, LARGE, draw_scene
from mmseg_dhr.models.uss import ColorTextureUSS
from mmseg_dhr.models.uss.color_texture import _filter_bank, _separable


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 255


def smooth_noise(height: int, width: int) -> Tensor:
    coarse = noise(1, 3, height // 4, width // 4)
    return F.interpolate(coarse, size=(height, width), mode='bilinear')


def cosine(features: Tensor, first: tuple[int, int], second: tuple[int, int]) -> float:
    return F.cosine_similarity(features[0, :, first[0], first[1]],
                               features[0, :, second[0], second[1]], dim=0).item()


def test_build_from_config() -> None:
    model = MODELS.build(dict(type='ColorTextureUSS', stride=8, frequencies=10))
    assert model.out_channels == 20
    assert model.input_range == 'rgb255'
    assert not list(model.parameters()) and not model.state_dict()
    output = model(noise(2, 3, 32, 48))
    assert isinstance(output, tuple) and len(output) == 1
    assert output[0].shape == (2, 20, 4, 6)


@pytest.mark.parametrize('size, stride, grid', [
    ((1, 1), 4, (1, 1)), ((5, 3), 4, (2, 1)), ((33, 47), 4, (9, 12)), ((20, 21), 7, (3, 3)),
    ((9, 10), 1, (9, 10))])
def test_any_size(size: tuple[int, int], stride: int, grid: tuple[int, int]) -> None:
    features, = ColorTextureUSS(stride=stride)(noise(2, 3, *size))
    assert features.shape == (2, 96, *grid)
    assert torch.isfinite(features).all()


def test_unit_vectors() -> None:
    features, = ColorTextureUSS()(noise(1, 3, 30, 30))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(1, 8, 8))


@pytest.mark.parametrize('level', [0., 128., 255.])
def test_uniform_image(level: float) -> None:
    features, = ColorTextureUSS()(torch.full((1, 3, 21, 18), level))
    torch.testing.assert_close(features, features[:, :, :1, :1].expand_as(features),
                               atol=1e-4, rtol=0)


def test_batch_equals_single_images() -> None:
    model, images = ColorTextureUSS(), noise(3, 3, 20, 26)
    singles = torch.cat([model(image[None])[0] for image in images])
    torch.testing.assert_close(model(images)[0], singles, atol=1e-5, rtol=0)


def test_two_instances_agree_whatever_the_global_seed() -> None:
    images = noise(1, 3, 24, 24)
    torch.manual_seed(1)
    first = ColorTextureUSS()(images)[0]
    torch.manual_seed(2)
    assert torch.equal(first, ColorTextureUSS()(images)[0])


def test_crop_has_the_features_of_the_whole() -> None:
    # Not so with statistics of the image: those of the crop are others.
    model, image = ColorTextureUSS(), smooth_noise(128, 128)
    image[..., :40] *= 0.2
    whole, = model(image)
    part, = model(image[..., 48:112, 48:112])
    torch.testing.assert_close(part[..., 4:12, 4:12], whole[..., 16:24, 16:24],
                               atol=1e-4, rtol=0)


def test_a_cell_is_the_mean_of_the_pixels_it_covers() -> None:
    # 10 pixels make two whole cells of 4 and half a cell.
    model, image = ColorTextureUSS(stride=4, frequencies=6), noise(1, 3, 10, 10)
    responses = _filter_bank(torch.log(image + 16))[0]
    for row, column in [(0, 0), (1, 2), (2, 2)]:
        window = responses[:, 4 * row:4 * row + 4, 4 * column:4 * column + 4]
        standard = (window.mean((1, 2)) - model.centres.flatten()) * model.factors.flatten()
        phases = model.projections @ standard
        expected = torch.cat([phases.cos(), phases.sin()]) / math.sqrt(6)
        torch.testing.assert_close(model(image)[0][0, :, row, column], expected,
                                   atol=1e-5, rtol=0)


def test_cosine_approximates_the_kernel() -> None:
    model = ColorTextureUSS(frequencies=4000, bandwidth=1.0)
    responses = torch.zeros(2, 15)
    responses[1, 0] = 1.2  # distance of the standardised responses
    phases = responses @ model.projections.T
    features = torch.cat([phases.cos(), phases.sin()], dim=1)
    similarity = F.cosine_similarity(features[0], features[1], dim=0).item()
    assert similarity == pytest.approx(math.exp(-1.2**2 / 2), abs=0.03)


def test_separable_is_a_plain_convolution() -> None:
    maps, vertical, horizontal = noise(2, 3, 9, 11), torch.tensor([1., 2., 4.]), torch.rand(5)
    kernel = (vertical[:, None] * horizontal[None]).expand(3, 1, 3, 5)
    padded = F.pad(maps, (2, 2, 1, 1), mode='replicate')
    torch.testing.assert_close(_separable(maps, vertical, horizontal),
                               F.conv2d(padded, kernel, groups=3))


def test_sees_hue_not_brightness() -> None:
    image = torch.full((1, 3, 40, 120), 0.)
    image[..., :40] = torch.tensor([200., 60., 40.]).view(1, 3, 1, 1)
    image[..., 40:80] = torch.tensor([150., 45., 30.]).view(1, 3, 1, 1)
    image[..., 80:] = torch.tensor([40., 60., 200.]).view(1, 3, 1, 1)
    features, = ColorTextureUSS()(image)
    assert cosine(features, (5, 5), (5, 15)) > 0.9
    assert cosine(features, (5, 5), (5, 25)) < 0.3


def test_sees_texture() -> None:
    # Stripes and uniform ground of equal mean colour.
    columns = torch.arange(96)
    image = torch.full((1, 3, 40, 96), 120.)
    image[..., 48:] += 60 * torch.sin(columns[48:] * math.pi / 2 + 0.5)
    features, = ColorTextureUSS()(image)
    assert cosine(features, (4, 3), (6, 6)) > 0.95
    assert cosine(features, (4, 3), (4, 19)) < 0.75


def test_dtype_and_autocast_do_not_matter() -> None:
    model, images = ColorTextureUSS(), noise(1, 3, 24, 30).to(torch.uint8)
    expected, = model(images.float())
    assert torch.equal(model(images)[0], expected)
    assert torch.equal(model(images.bfloat16().float())[0], model(images.bfloat16())[0])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        features, = model(images)
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)


def test_no_gradient() -> None:
    assert not ColorTextureUSS()(noise(1, 3, 8, 8).requires_grad_())[0].requires_grad


def test_non_contiguous_input() -> None:
    image = noise(1, 20, 24, 3)
    strided = image.permute(0, 3, 1, 2)
    torch.testing.assert_close(ColorTextureUSS()(strided)[0],
                               ColorTextureUSS()(strided.contiguous())[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize('shape', [(3, 8, 8), (1, 1, 8, 8), (1, 4, 8, 8)])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r'of shape \(B, 3, H, W\), but got \('):
        ColorTextureUSS()(torch.zeros(shape))


def test_normalised_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r'RGB in 0..255, but got values down to -2.00'):
        ColorTextureUSS()(torch.full((1, 3, 8, 8), -2.))
    # What rounding leaves of black when a normalisation is undone is no mistake.
    ColorTextureUSS()(torch.full((1, 3, 8, 8), -1e-4))


@pytest.mark.parametrize('name', ['stride', 'frequencies', 'bandwidth'])
def test_bad_arguments(name: str) -> None:
    with pytest.raises(ValueError, match=f'`{name}` to be positive, but got 0'):
        ColorTextureUSS(**{name: 0})


def test_separates_the_groups_of_scenes() -> None:
    """A pixel pair of one class is more alike than one of unlike groups, far above chance."""
    group_of = {label: number for number, group in enumerate(GROUPS) for label in group}
    model, areas = ColorTextureUSS(), []
    for index in range(40):
        scene = draw_scene(np.random.default_rng([7, index]))
        features, = model(torch.from_numpy(scene.image).permute(2, 0, 1)[None])
        labels = torch.from_numpy(scene.mask[2::4, 2::4]).flatten()
        chosen = torch.isin(labels, torch.tensor(LARGE))
        groups = torch.tensor([group_of[label] for label in labels[chosen].tolist()])
        similarity = features.flatten(2)[0, :, chosen].T @ features.flatten(2)[0, :, chosen]
        same = groups[:, None] == groups[None]
        if same.all():
            continue
        areas.append(_auc(similarity[same].numpy(), similarity[~same].numpy()))
    assert len(areas) > 10
    assert np.mean(areas) > 0.8


def _auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Share of (positive, negative) pairs in the right order."""
    ranks = np.searchsorted(np.sort(negative), positive)
    return float(ranks.mean() / len(negative))
