from __future__ import annotations

import numpy as np
import pytest
import torch

from mmseg_dhr.apis import list_photos
from mmseg_dhr.apis.common import Photo
from mmseg_dhr.apis.label_probe import (
    ProbeSettings,
    _targets,
    collect_features,
    predict_labels,
    train_head,
)
from mmseg_dhr.apis.label_probe import (
    test_head as score_head,
)
from mmseg_dhr.formats import write_mask
from mmseg_dhr.utils import UserError

SETTINGS = ProbeSettings(size=64, levels=(0, -1), channels=16, iters=40, batch_size=6, lr=1e-2)


@pytest.fixture
def truth(scenes_root):
    return scenes_root / 'SegmentationClass'


@pytest.fixture
def features(model, scenes):
    return collect_features(model, list_photos(scenes), SETTINGS)


def test_features_and_their_mirror_image(model, photos) -> None:
    found = collect_features(model, list_photos(photos), SETTINGS)
    assert found.sizes == [(64, 58), (30, 64), (42, 64)]
    fine, coarse = found.levels
    assert fine.shape == (2, 3, 8, 16, 16) and coarse.shape == (2, 3, 64, 8, 8)
    assert fine.dtype == torch.float16
    mirrored = collect_features(model, list_photos(photos)[1:2], SETTINGS).levels[0]
    assert torch.equal(mirrored[:, 0], fine[:, 1])  # an image's features are its own
    assert not torch.equal(fine[0], fine[1])


def test_true_masks_train_a_better_head_than_random_ones(features, truth, tmp_path,
                                                         scenes) -> None:
    rng = np.random.default_rng(0)
    for image_id in scenes.image_ids:
        write_mask(tmp_path / 'random' / f'{image_id}.png', rng.integers(0, 9, (64, 64)),
                   scenes.metainfo['palette'])
    miou = [score_head(train_head(features, folder, 9, 0, SETTINGS), features, truth, 9, 0,
                       SETTINGS).all.miou for folder in (truth, tmp_path / 'random')]
    assert miou[0] > 2 * miou[1]


def test_targets_are_the_labels_in_the_middle_of_the_cells(tmp_path) -> None:
    mask = np.zeros((160, 160), np.uint8)
    mask[:, 100:] = 1  # most of the cell from 96 to 111
    write_mask(tmp_path / 'a.png', mask, [[0, 0, 0], [9, 9, 9]])
    plain, mirrored = _targets(tmp_path, Photo('a', 'a.jpg', (1, )), 160, (10, 10))
    assert plain[0].tolist() == [0] * 6 + [1] * 4
    assert torch.equal(mirrored, plain.flip(-1))


def test_seed(features, truth) -> None:
    few = SETTINGS._replace(iters=3)
    torch.manual_seed(7)
    heads = [train_head(features, truth, 9, seed, few) for seed in (0, 0, 1)]
    state = torch.get_rng_state()
    torch.manual_seed(7)
    assert torch.equal(state, torch.get_rng_state())  # the caller's random numbers stay
    first, again, other = ([p.detach() for p in head.parameters()] for head in heads)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    scores = [score_head(head, features, truth, 9, 0, few).all.miou for head in heads[:2]]
    assert scores[0] == scores[1] and not heads[0].training


def test_allowed_labels(features, truth, scenes) -> None:
    head = train_head(features, truth, 9, 0, SETTINGS._replace(iters=2))
    free = predict_labels(head, features, 0, (50, 70), SETTINGS)
    assert free.shape == (50, 70) and free.dtype == np.uint8
    absent = next(c for c in range(9) if c not in free)
    assert set(np.unique(predict_labels(head, features, 0, (50, 70), SETTINGS,
                                        allowed=(absent, )))) == {absent}


def test_prediction_keeps_the_shape_of_the_photo(model, scenes, truth) -> None:
    """A head that copies a marked channel puts it where the photo has it, padding cut off."""
    found = collect_features(model, list_photos(scenes)[:1], SETTINGS)
    marked = torch.zeros(2, 1, 2, 16, 16, dtype=torch.float16)
    marked[0, 0, 1, 4:8, 0:4] = 1  # pixels 16:32, 0:16 of the padded square
    marked[0, 0, 0] = 0.5
    found = found._replace(levels=[marked], sizes=[(32, 64)])
    labels = predict_labels(torch.nn.Identity(), found, 0, (32, 64), SETTINGS)
    expected = np.zeros((32, 64), np.uint8)
    expected[16:32, :16] = 1
    assert (labels != expected).mean() < 0.02


def test_missing_mask(features, tmp_path) -> None:
    with pytest.raises(UserError, match=r'no true mask for image train_00000'):
        train_head(features, tmp_path, 9, 0, SETTINGS)
