"""AxisAffine and sample_features against hand-computed tables and a plain bilinear loop."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_dhr.ops.geometry import AxisAffine, sample_features

IDENTITY = AxisAffine.identity()

scales = st.floats(0.25, 4).flatmap(lambda value: st.sampled_from([value, -value]))
offsets = st.floats(-50, 50)
affines = st.builds(AxisAffine, scales, offsets, scales, offsets)


def bilinear(features: np.ndarray, x: float, y: float) -> np.ndarray:
    """Value at (x, y) in [0, w] x [0, h]; the border's value continues outwards."""
    _, h, w = features.shape
    x, y = min(max(x - 0.5, 0), w - 1), min(max(y - 0.5, 0), h - 1)
    x0, y0 = math.floor(x), math.floor(y)
    x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
    top = features[:, y0, x0] * (x0 + 1 - x) + features[:, y0, x1] * (x - x0)
    bottom = features[:, y1, x0] * (x0 + 1 - x) + features[:, y1, x1] * (x - x0)
    return top * (y0 + 1 - y) + bottom * (y - y0)


class TestAxisAffine:

    @pytest.mark.parametrize('step, point, expected', [
        (IDENTITY, (3, 4), (3, 4)),
        (AxisAffine.resize((10, 30), (20, 15)), (15, 20), (30, 10)),
        (AxisAffine.flip((10, 30), 'horizontal'), (1, 4), (29, 4)),
        (AxisAffine.flip((10, 30), 'vertical'), (1, 4), (1, 6)),
        (AxisAffine.flip((10, 30), 'diagonal'), (1, 4), (29, 6)),
        (AxisAffine.crop(top=2, left=7), (0, 0), (7, 2)),
    ])
    def test_steps(self, step, point, expected):
        assert step.apply(*point) == expected

    def test_compose_applies_the_last_step_first(self):
        # 40x60 resized to 20x30, flipped, cropped at (4, 5): its pixel corner (0, 0) is column 5 of
        # the flipped image, column 25 of the resized one, column 50 of the original.
        total = IDENTITY.compose(AxisAffine.resize((40, 60), (20, 30))) \
            .compose(AxisAffine.flip((20, 30), 'horizontal')).compose(AxisAffine.crop(4, 5))
        assert total.apply(0, 0) == (50, 8)

    @given(affines, affines, affines)
    def test_compose_is_associative(self, a, b, c):
        assert a.compose(b).compose(c) == pytest.approx(a.compose(b.compose(c)), abs=1e-6)

    @given(affines)
    def test_inverse(self, a):
        assert a.compose(a.inverse()) == pytest.approx(IDENTITY, abs=1e-9)
        assert a.inverse().compose(a) == pytest.approx(IDENTITY, abs=1e-9)

    def test_unknown_direction(self):
        with pytest.raises(ValueError, match="'horizontal', 'vertical' or 'diagonal'.*'left'"):
            AxisAffine.flip((2, 2), 'left')


class TestSampleFeatures:

    @settings(max_examples=40, deadline=None)
    @given(geometry=affines, size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
           grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
           out_size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
           orig_size=st.tuples(st.integers(1, 60), st.integers(1, 60)))
    def test_equals_plain_loop(self, geometry, size, grid, out_size, orig_size):
        features = torch.rand(2, *size, dtype=torch.float64,
                              generator=torch.Generator().manual_seed(0))
        result = sample_features(features, geometry, out_size, grid, orig_size)
        for i in range(grid[0]):
            for j in range(grid[1]):
                x, y = geometry.apply((j + .5) * out_size[1] / grid[1],
                                      (i + .5) * out_size[0] / grid[0])
                expected = bilinear(features.numpy(), x / orig_size[1] * size[1],
                                    y / orig_size[0] * size[0])
                np.testing.assert_allclose(result[:, i, j].numpy(), expected, atol=1e-9)

    def test_whole_image_on_its_own_grid_is_unchanged(self):
        features = torch.rand(3, 5, 7)
        result = sample_features(features, IDENTITY, (37, 53), (5, 7), (37, 53))
        torch.testing.assert_close(result, features, atol=1e-5, rtol=0)

    def test_flip_and_aligned_crop(self):
        features = torch.rand(3, 4, 8)
        flip = AxisAffine.flip((32, 64), 'horizontal')
        flipped = sample_features(features, flip, (32, 64), (4, 8), (32, 64))
        torch.testing.assert_close(flipped, features.flip(-1), atol=1e-5, rtol=0)
        cropped = sample_features(features, AxisAffine.crop(8, 16), (16, 24), (2, 3), (32, 64))
        torch.testing.assert_close(cropped, features[:, 1:3, 2:5], atol=1e-5, rtol=0)

    @pytest.mark.parametrize('dtype, expected', [
        (torch.float16, torch.float32), (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32), (torch.float64, torch.float64)])
    def test_dtype(self, dtype, expected):
        result = sample_features(torch.ones(2, 3, 3, dtype=dtype), IDENTITY, (9, 9), (2, 2), (9, 9))
        assert result.dtype == expected
        assert (result == 1).all()

    def test_non_contiguous(self):
        features = torch.rand(4, 5, 6).permute(2, 0, 1)
        expected = sample_features(features.contiguous(), IDENTITY, (9, 9), (2, 2), (9, 9))
        assert torch.equal(sample_features(features, IDENTITY, (9, 9), (2, 2), (9, 9)), expected)

    @pytest.mark.parametrize('shape', [(3, 3), (1, 2, 3, 3), (2, 0, 3)])
    def test_wrong_shape(self, shape):
        with pytest.raises(ValueError, match=r'`features` of shape \(D, h, w\)'):
            sample_features(torch.zeros(shape), IDENTITY, (9, 9), (2, 2), (9, 9))

    @pytest.mark.parametrize('name', ['out_size', 'grid', 'orig_size'])
    def test_wrong_size(self, name):
        sizes = dict(out_size=(9, 9), grid=(2, 2), orig_size=(9, 9))
        sizes[name] = (0, 3)
        with pytest.raises(ValueError, match=f'`{name}` to be two positive numbers'):
            sample_features(torch.zeros(1, 2, 2), IDENTITY, **sizes)
