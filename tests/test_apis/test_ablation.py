from __future__ import annotations

import json

import numpy as np
import pytest

from mmseg_dhr.apis.ablation import BASE, CONTROLS, ablate, figures_of, folder_name
from mmseg_dhr.apis.pseudo_labels import pseudo_label_stages
from mmseg_dhr.evaluation import MaskScores
from mmseg_dhr.formats import Manifest, read_mask, write_mask
from mmseg_dhr.utils import UserError

PROPAGATION = dict(type='DHRPropagation', num_classes=9, stride=2, refine=None)
ROWS = {**CONTROLS, 'DHR': dict(), 'USS, tau 1': dict(tau=1.0)}


@pytest.fixture
def moved(scenes_root, tmp_path, scenes):
    """A folder of M_base that is wrong at the borders of objects."""
    for image_id in scenes.image_ids:
        mask = np.roll(read_mask(scenes_root / f'SegmentationClass/{image_id}.png'), (4, 4), (0, 1))
        write_mask(tmp_path / 'base' / f'{image_id}.png', np.where(mask == 255, 0, mask),
                   scenes.metainfo['palette'])
    return tmp_path / 'base'


def scores_of(masks, truths, tags):
    scores = MaskScores(9, 0)
    for image_id in tags:
        scores.update(read_mask(masks / f'{image_id}.png'), read_mask(truths / f'{image_id}.png'),
                      tags[image_id])
    return scores.compute()


def assert_same(ours, theirs) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.as_dict() == other.as_dict()


def test_rows_score_as_their_masks(model, scenes_with_base, moved, scenes_root, tmp_path) -> None:
    dataset, truth = scenes_with_base(moved), scenes_root / 'SegmentationClass'
    found = ablate(model, dataset, ROWS, truth, PROPAGATION, batch_size=4,
                   masks_dir=tmp_path / 'masks')
    assert list(found) == [BASE, *ROWS]
    tags = {image_id: dataset.image_labels(i) for i, image_id in enumerate(dataset.image_ids)}
    for pair in zip(found[BASE], (scores_of(moved, truth, tags), ) * 2, strict=True):
        assert_same(*pair)
    for name in ROWS:
        assert_same(found[name][1], scores_of(tmp_path / 'masks' / folder_name(name), truth, tags))
        assert_same(*found[name])  # without R_C there is nothing between the two
        assert Manifest.load(tmp_path / 'masks' / folder_name(name)).complete
    # tau = 1 leaves WSS out, and the two controls read different features.
    figures = [found[name][1].all.miou for name in ROWS]
    assert len(set(figures)) == len(figures)


def test_stages_of_the_model_are_a_row(model, scenes_with_base, moved, scenes_root) -> None:
    dataset, truth = scenes_with_base(moved), scenes_root / 'SegmentationClass'
    settings = dict(type='DHRPropagation', num_classes=9, stride=2)  # that of the model
    found = ablate(model, dataset, {'DHR': {}, 'control': dict(steps=('seeds', 'uss'),
                                                               transport=False)},
                   truth, settings, batch_size=3)
    expected = {name: MaskScores(9, 0) for name in ('wss', 'final')}
    for index, stages in pseudo_label_stages(model, dataset, list(range(6)), 3):
        for name, scores in expected.items():
            scores.update(stages[name], read_mask(truth / f'{dataset.image_ids[index]}.png'),
                          dataset.image_labels(index))
    assert_same(found['DHR'][0], expected['wss'].compute())
    assert_same(found['DHR'][1], expected['final'].compute())


def test_rows_do_not_touch_each_other(model, scenes_with_base, moved, scenes_root) -> None:
    """Rows share M_init where they may; alone, each gives what it gives among others."""
    dataset, truth = scenes_with_base(moved), scenes_root / 'SegmentationClass'
    rows = {'a': dict(merge='all'), 'b': dict(), 'c': dict(merge='all', marginal='area')}
    together = ablate(model, dataset, rows, truth, PROPAGATION, every=2)
    for name, fields in rows.items():
        alone = ablate(model, dataset, {name: fields}, truth, PROPAGATION, every=2)
        assert_same(together[name][1], alone[name][1])
    assert together['a'][1].all.miou != together['b'][1].all.miou
    assert together['a'][1].all.images == 3


def test_true_shares_are_the_oracle(model, scenes_with_base, scenes_root) -> None:
    """With M_base = truth, and the classes' true masses, no class is lost."""
    dataset, truth = scenes_with_base(), scenes_root / 'SegmentationClass'
    rows = {'true': dict(marginal='shares', shares='true'),
            'predicted': dict(marginal='shares'), 'uniform': dict()}
    found = ablate(model, dataset, rows, truth, PROPAGATION)
    assert found[BASE][1].all.miou == 100
    assert len({scores.all.miou for _, scores in found.values()}) == 4


def test_tags_alone(model, scenes, scenes_root) -> None:
    found = ablate(model, scenes, {'DHR': {}}, scenes_root / 'SegmentationClass', PROPAGATION,
                   every=3)
    assert list(found) == ['DHR'] and found['DHR'][1].all.images == 2


def test_no_truth(model, scenes, tmp_path) -> None:
    with pytest.raises(UserError, match=f'no true mask for image {scenes.image_ids[0]}'):
        ablate(model, scenes, {'DHR': {}}, tmp_path, PROPAGATION)


def test_figures_and_folder_names(model, scenes_with_base, scenes_root) -> None:
    assert folder_name('sqrt_area, rho 0.1 (a/b)') == 'sqrt_area_rho_0.1_a_b'
    found = ablate(model, scenes_with_base(), {'DHR': {}}, scenes_root / 'SegmentationClass',
                   PROPAGATION, every=6)
    read = json.loads(json.dumps(figures_of(found)))
    assert list(read) == [BASE, 'DHR']
    assert read['DHR']['final']['all'] == found['DHR'][1].all.as_dict()
