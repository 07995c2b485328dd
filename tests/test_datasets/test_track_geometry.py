"""TrackGeometry on images that encode their own coordinates, through the real transforms."""
from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose

from mmseg_dhr.datasets.transforms import LoadUSSFeatures, TrackGeometry
from mmseg_dhr.formats import write_features
from mmseg_dhr.ops.geometry import AxisAffine, sample_features

IDENTITY = AxisAffine.identity()
SIZES = [(47, 61), (80, 33), (64, 64)]

AUGMENTATIONS = dict(
    resize=[dict(type='Resize', scale=(90, 40), keep_ratio=False)],
    resize_keep=[dict(type='Resize', scale=(90, 40), keep_ratio=True)],
    shortest=[dict(type='ResizeShortestEdge', scale=50, max_size=120)],
    choice=[dict(type='RandomChoiceResize', scales=[(30, 50), (80, 70)], keep_ratio=False)],
    multiple=[dict(type='ResizeToMultiple', size_divisor=32)],
    flip=[dict(type='RandomFlip', prob=[.3, .3, .3],
               direction=['horizontal', 'vertical', 'diagonal'])],
    crop=[dict(type='RandomCrop', crop_size=(30, 25), cat_max_ratio=.75)],
    train=[
        dict(type='RandomResize', scale=(100, 40), ratio_range=(.5, 2.), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(32, 48)),
        dict(type='RandomFlip', prob=.5),
        dict(type='Pad', size=(64, 64)),
    ],
    nested=[
        dict(type='RandomApply', prob=.5, transforms=[dict(type='RandomFlip', prob=1.)]),
        dict(type='RandomChoice', transforms=[
            [dict(type='Resize', scale=(50, 50)), dict(type='RandomCrop', crop_size=20)],
            [dict(type='RandomFlip', prob=1., direction='vertical')]]),
        dict(type='RandomFlip', prob=.5),
    ],
)


def coordinate_image(size):
    """(H, W, 3) float32: x and y of each pixel's centre, and 1 where the image is."""
    y, x = np.mgrid[:size[0], :size[1]].astype(np.float32) + 0.5
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def sample(size):
    """A results dict as it stands after loading."""
    image = coordinate_image(size)
    mask = np.random.randint(0, 3, size).astype(np.uint8)
    return dict(img=image, img_shape=size, ori_shape=size, img_path='a/b.jpg',
                seg_fields=['gt_seg_map'], gt_seg_map=mask)


@pytest.mark.usefixtures('mmseg_modules')
class TestTrackGeometry:

    @pytest.mark.parametrize('size', SIZES)
    @pytest.mark.parametrize('name', AUGMENTATIONS)
    def test_coordinates_match(self, name, size):
        transform = TrackGeometry(AUGMENTATIONS[name])
        seen = set()
        for seed in range(8):
            np.random.seed(seed)
            results = transform(sample(size))
            image, geometry = results['img'], results['geometry']
            inside = image[..., 2] == 1  # false where padded
            assert inside.any()
            own = coordinate_image(image.shape[:2])
            x, y = geometry.apply(own[..., 0], own[..., 1])
            # A resized image holds the border pixel's value beyond the border pixel's centre.
            x, y = x.clip(.5, size[1] - .5), y.clip(.5, size[0] - .5)
            np.testing.assert_allclose(image[..., 0][inside], x[inside], atol=2e-3)
            np.testing.assert_allclose(image[..., 1][inside], y[inside], atol=2e-3)
            seen.add(geometry)
        if name in ('flip', 'crop', 'train', 'nested'):
            assert len(seen) > 1  # the seeds did try different augmentations

    @pytest.mark.parametrize('size', SIZES)
    def test_sampled_features_match_the_augmented_image(self, size, tmp_path):
        """Features that hold coordinates, sampled, equal the coordinates in the augmented image."""
        coordinates = torch.from_numpy(coordinate_image(size)).permute(2, 0, 1)
        train = TrackGeometry(AUGMENTATIONS['train'][:3])
        for seed in range(6):
            np.random.seed(seed)
            results = train(sample(size))
            out_size = results['img'].shape[:2]
            augmented = torch.from_numpy(results['img'].copy()).permute(2, 0, 1)
            for grid in (out_size, (5, 3)):
                found = sample_features(coordinates, results['geometry'], out_size, grid, size)
                expected = sample_features(augmented, IDENTITY, out_size, grid, out_size)
                torch.testing.assert_close(found, expected, atol=3e-3, rtol=0)

    @pytest.mark.parametrize('options, grid, cell', [
        (dict(stride=16), (3, 4), (16, 16)),  # 40x56: the last cells reach beyond the image
        (dict(grid=(5, 4)), (5, 4), (8, 14))])
    def test_load_uss_features(self, tmp_path, options, grid, cell):
        """Cached coordinates at stride 4, in float16, follow the augmentation."""
        y, x = torch.meshgrid(torch.arange(2., 48, 4), torch.arange(2., 64, 4), indexing='ij')
        write_features(tmp_path / 'b.safetensors', torch.stack([x, y]))
        pipeline = Compose([
            TrackGeometry([dict(type='Resize', scale=(128, 96)),
                           dict(type='RandomCrop', crop_size=(40, 56)),
                           dict(type='RandomFlip', prob=.5)]),
            LoadUSSFeatures(str(tmp_path), **options)])
        for seed in range(4):
            np.random.seed(seed)
            results = pipeline(sample((48, 64)))
            features = results['uss_features']
            assert features.shape == (2, *grid) and features.dtype == torch.float32
            for i, j in np.ndindex(*grid):
                row, column = int((i + .5) * cell[0]), int((j + .5) * cell[1])
                if row < 40 and column < 56:
                    # The pixel whose corner the centre is, less half a pixel's step (1/4).
                    pixel = torch.from_numpy(results['img'][row, column, :2].copy())
                    expected = pixel.clamp(torch.tensor([2., 2.]), torch.tensor([62., 46.]))
                    torch.testing.assert_close(features[:, i, j], expected, atol=.27, rtol=0)

    def test_colour_and_pixels_that_stay(self):
        transform = TrackGeometry([dict(type='PhotoMetricDistortion'),
                                   dict(type='RandomCutOut', prob=1., n_holes=1,
                                        cutout_shape=(4, 4))])
        results = sample((20, 30))
        results['img'] = results['img'].astype(np.uint8)
        assert transform(results)['geometry'] == IDENTITY

    def test_starts_anew_for_each_sample(self):
        transform = TrackGeometry([dict(type='Resize', scale=(30, 20), keep_ratio=False)])
        first, second = transform(sample((40, 60))), transform(sample((40, 60)))
        assert first['geometry'] == second['geometry'] == AxisAffine(2., 0., 2., 0.)

    def test_picklable_after_use(self):
        transform = TrackGeometry(AUGMENTATIONS['train'])
        transform(sample((40, 60)))
        copy = pickle.loads(pickle.dumps(transform))
        np.random.seed(1)
        expected = transform(sample((40, 60)))
        np.random.seed(1)
        assert copy(sample((40, 60)))['geometry'] == expected['geometry']

    @pytest.mark.parametrize('config', [
        dict(type='RandomRotate', prob=.5, degree=10), dict(type='RandomRotFlip'),
        dict(type='CenterCrop', crop_size=8),
        dict(type='RandomApply', transforms=[dict(type='RandomRotate', prob=.5, degree=10)])])
    def test_refuses_what_it_cannot_track(self, config):
        with pytest.raises(ValueError, match='track (RandomRotate|RandomRotFlip|CenterCrop)'):
            TrackGeometry([config])

    def test_refuses_unknown_change_of_size(self):

        def shrink(results):
            results['img'] = results['img'][1:]
            return results

        with pytest.raises(ValueError, match=r'size from \(20, 30\) to \(19, 30\)'):
            TrackGeometry([shrink])(sample((20, 30)))

    def test_passes_none_on(self):
        assert TrackGeometry([lambda results: None])(sample((20, 30))) is None
