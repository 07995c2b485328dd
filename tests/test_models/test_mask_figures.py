"""The logged figures of M_dh against counting in numpy."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from mmseg_dhr.models.segmentors.mask_figures import mask_figures


def count(final, init, base, inside, tagged, background):
    """The same, pixel by pixel."""
    shown = lost = 0
    for row, tags in enumerate(tagged):
        for label in np.flatnonzero(tags):
            if (init[row] == label).any():
                shown += 1
                lost += not (final[row] == label).any()
    labelled = inside & (final != 255)
    # the pixel in the middle of the cell, or below and to the right of it
    both = labelled & (base[:, 1::2, 1::2] != 255)
    changed = both & (final != base[:, 1::2, 1::2])
    return {'dhr/vanished': lost / max(shown, 1),
            'dhr/background': (final[labelled] == background).mean(),
            'dhr/ignored': 1 - labelled.sum() / inside.sum(),
            'dhr/changed': changed.sum() / both.sum()}


@pytest.mark.parametrize('background', [0, 2])
def test_like_counting(background) -> None:
    rng = np.random.default_rng(background)
    labels = np.array([0, 1, 2, 3, 4, 5, 255])
    tagged = rng.random((4, 6)) < .6
    tagged[:, background] = False
    init, base = rng.choice(labels, (2, 4, 10, 14), p=[.9, .02, .01, .01, .01, .01, .04])
    final = rng.choice(labels, (4, 5, 7), p=[.5, .1, .1, .05, .05, .05, .15])
    inside = np.zeros((4, 5, 7), bool)
    inside[:2] = inside[2, :3] = inside[3, :, :4] = True
    final[~inside] = 255
    found = mask_figures(*map(torch.from_numpy, (final, init, base, inside, tagged)), background)
    expected = count(final, init, base, inside, tagged, background)
    assert 0 < expected['dhr/vanished'] < 1
    assert {k: v.item() for k, v in found.items()} == pytest.approx(expected)
    assert not any('loss' in name for name in found)  # mmengine would add them up


def test_what_a_class_must_show_to_vanish() -> None:
    init = torch.tensor([[[0, 1], [0, 3]]])
    tagged = torch.tensor([[False, True, True, False]])
    inside = torch.ones((1, 2, 2), dtype=torch.bool)

    def vanished(final):
        figures = mask_figures(torch.tensor([final]), init, None, inside, tagged, 0)
        return figures['dhr/vanished'].item()

    assert vanished([[0, 1], [0, 0]]) == 0  # 2 is not in the crop, 3 is no tag
    assert vanished([[0, 2], [255, 0]]) == 1


def test_nothing_to_count() -> None:
    """No tag, no label, no M_base, no background."""
    empty = torch.full((2, 3, 3), 255)
    figures = mask_figures(empty, empty, None, torch.ones_like(empty, dtype=torch.bool),
                           torch.zeros((2, 4), dtype=torch.bool), None)
    assert {k: v.item() for k, v in figures.items()} == {'dhr/vanished': 0, 'dhr/ignored': 1}
    figures = mask_figures(empty, empty, empty, torch.zeros_like(empty, dtype=torch.bool),
                           torch.zeros((2, 4), dtype=torch.bool), 0)
    assert all(value == 0 for value in figures.values())
