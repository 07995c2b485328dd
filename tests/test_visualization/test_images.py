from __future__ import annotations

import numpy as np
import pytest

from mmseg_dhr.visualization import IGNORE_COLOUR, cam_heatmap, colorize_mask, overlay

PALETTE = [[0, 0, 0], [10, 20, 30]]


@pytest.mark.parametrize('dtype', [np.uint8, np.int64])
def test_colours_come_from_the_palette(dtype):
    mask = np.array([[0, 1, 255], [1, 2, 0]], dtype)
    colours = colorize_mask(mask, PALETTE)
    assert colours.dtype == np.uint8
    lookup = {0: (0, 0, 0), 1: (10, 20, 30)}
    for position in np.ndindex(mask.shape):
        expected = lookup.get(int(mask[position]), IGNORE_COLOUR)
        assert tuple(colours[position]) == expected


def test_negative_labels_are_no_class():
    assert tuple(colorize_mask(np.array([[-1]]), PALETTE)[0, 0]) == IGNORE_COLOUR


def test_colorize_refuses_scores():
    with pytest.raises(ValueError, match='integer mask'):
        colorize_mask(np.zeros((2, 2), np.float32), PALETTE)


def test_overlay_is_a_weighted_mean():
    image = np.full((2, 3, 3), 100, np.uint8)
    colours = np.full((2, 3, 3), 200, np.uint8)
    assert (overlay(image, colours, 0.25) == 125).all()
    np.testing.assert_array_equal(overlay(image, colours, 0), image)
    np.testing.assert_array_equal(overlay(image, colours, 1), colours)


def test_overlay_errors():
    image = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match='colours of shape'):
        overlay(image, np.zeros((3, 2, 3), np.uint8))
    with pytest.raises(ValueError, match=r'alpha in \[0, 1\]'):
        overlay(image, image, 2)


def test_heatmap_goes_from_blue_to_red():
    heat = cam_heatmap(np.array([[0.0, 1.0, np.nan, 7.0]], np.float16)).astype(int)
    low, high, nan, above = heat[0]
    assert low[2] > low[0] and high[0] > high[2]  # RGB: blue below, red above
    np.testing.assert_array_equal(nan, low)
    np.testing.assert_array_equal(above, high)


def test_heatmap_takes_the_size_of_the_image():
    image = np.full((5, 9, 3), 40, np.uint8)
    assert cam_heatmap(np.zeros((2, 3)), image).shape == (5, 9, 3)
    with pytest.raises(ValueError, match='activation map'):
        cam_heatmap(np.zeros((1, 2, 3)))
