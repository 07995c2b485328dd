"""Timing in turn, agreement, photos, and the suites on tiny images. No time is asserted."""
from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmseg_dhr.apis.benchmark import (
    Row,
    Setup,
    crf_rows,
    draw_photos,
    limit_images,
    load_photos,
    ot_rows,
    tool_rows,
    train_rows,
    walk_rows,
    write_inputs,
)
from mmseg_dhr.apis.benchmark.crf import agreement, batch_of, label_agreement
from mmseg_dhr.apis.benchmark.ot import RIVALS, plan_agreement, pot_plans
from mmseg_dhr.apis.benchmark.photos import Photo, class_scores
from mmseg_dhr.apis.benchmark.timing import Case, Clock, race, row, spread
from mmseg_dhr.apis.benchmark.train import refiners
from mmseg_dhr.apis.benchmark.walk import BETA, dense_walk
from mmseg_dhr.apis.build import build_dataset, build_model
from mmseg_dhr.formats import write_mask
from mmseg_dhr.ops import sinkhorn
from mmseg_dhr.utils import UserError

PALETTE = [[0, 0, 0], [9, 9, 9], [0, 99, 0]]


def check_rows(rows: list[Row], suite: str) -> None:
    for one in rows:
        assert one.suite == suite and one.ours_ms > 0 and one.runs >= 1 and one.batch >= 1
        assert (one.reference_ms is None) == (one.ratio is None)
        if one.ratio is not None:
            assert one.reference_ms > 0
            assert 0 < one.ratio.low <= one.ratio.median <= one.ratio.high
    assert len({(one.what, one.classes, one.batch) for one in rows}) == len(rows)


class FakeRuns:
    """Runs that take as long as they say, and what ran when."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, []

    def __call__(self, name: str, seconds: float):
        def run() -> str:
            self.order.append(name)
            self.now += seconds
            return name
        return run


def test_race_in_turn_without_the_first_round() -> None:
    runs, compared = FakeRuns(), []

    def compare(ours: str, reference: str) -> dict[str, float]:
        compared.append((ours, reference))
        return dict(size=float(len(compared)), gap=math.nan if ours == 'b1' else 4.0)

    cases = [Case({'a': runs('a1', 2), 'b': runs('b1', 4)}, runs('r1', 8), 100, compare),
             Case({'a': runs('a2', 1), 'b': runs('b2', 5)}, runs('r2', 10), 300, compare)]
    found = race(cases, 2, Clock(lambda: runs.now))
    assert runs.order == ['a1', 'b1', 'r1',  # thrown away
                          'a1', 'b1', 'r1', 'r1', 'b1', 'a1', 'a2', 'b2', 'r2', 'r2', 'b2', 'a2']
    assert found['a'].ours == [2, 2, 1, 1] and found['b'].ours == [4, 4, 5, 5]
    assert found['a'].reference == found['b'].reference == [8, 8, 10, 10]
    assert sorted(compared) == [('a1', 'r1'), ('a2', 'r2'), ('b1', 'r1'), ('b2', 'r2')]
    line = row('suite', 'b', found['b'], classes=3, batch=2)
    assert line == Row('suite', 'b', 3, 200, 2, 4, 4500, 9000, (2, 2, 2), line.figures)
    assert line.figures['gap'] == 4 and row('suite', 'a', found['a']).ratio == (7, 4, 10)


def test_race_without_a_reference() -> None:
    runs = FakeRuns()
    line = row('suite', 'x', race([Case({'x': runs('x', 3)}, None, None)], 1,
                                  Clock(lambda: runs.now))['x'])
    assert line == Row('suite', 'x', None, None, 1, 1, 3000, None, None, {})
    assert spread([5]) == (5, 5, 5) and spread([4, 1, 2, 3]) == (2.5, 1.75, 3.25)


def test_groups_come_round() -> None:
    setup = Setup(draw_photos(3, 64))
    names = [[photo.name for photo in group] for group in setup.groups(2)]
    assert names == [['scene_0', 'scene_1']]
    assert [len(group) for group in setup.groups(1)] == [1, 1, 1]
    assert [photo.name[-1] for photo in setup.groups(5)[0]] == ['0', '1', '2', '0', '1']


@pytest.fixture
def photo_root(tmp_path):
    """Four photos of odd sizes, some with a mask."""
    rng = np.random.default_rng(0)
    (tmp_path / 'JPEGImages').mkdir()
    for i, size in enumerate([(40, 56), (33, 35), (64, 20), (50, 50)]):
        colours = np.kron(rng.integers(0, 256, (2, 2, 3)), np.ones((32, 32, 1)))
        image = colours[:size[0], :size[1]].astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f'JPEGImages/im{i}.png')
    write_mask(tmp_path / 'SegmentationClassAug/im0.png', rng.integers(0, 3, (40, 56)), PALETTE)
    write_mask(tmp_path / 'SegmentationClass/im2.png', np.full((64, 20), 2), PALETTE)
    return tmp_path


def test_load_photos(photo_root) -> None:
    photos = load_photos(photo_root, 9)
    assert [photo.name for photo in photos] == ['im0', 'im1', 'im2', 'im3']
    assert [photo.image.shape[:2] for photo in photos] == [(40, 56), (33, 35), (64, 20), (50, 50)]
    assert all(photo.image.dtype == photo.mask.dtype == np.uint8 for photo in photos)
    assert (photos[2].mask == 2).all() and set(np.unique(photos[0].mask)) == {0, 1, 2}
    # Without a mask: one label for each of the colours, which are less than the clusters.
    one = photos[3]
    for label in np.unique(one.mask):
        assert len(np.unique(one.image[one.mask == label], axis=0)) == 1
    assert len(np.unique(one.mask)) > 1
    assert [photo.name for photo in load_photos(photo_root, 2)] == ['im0', 'im2']
    assert load_photos(photo_root, 1, 28)[0].mask.shape == (20, 28)
    assert load_photos(photo_root, 1, 999)[0].mask.shape == (40, 56)
    plain = load_photos(photo_root / 'JPEGImages', 4)
    assert len(plain) == 4 and not (plain[2].mask == 2).all()


def test_load_photos_errors(photo_root, tmp_path) -> None:
    with pytest.raises(UserError, match='nowhere: no such folder'):
        load_photos(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='SegmentationClass: expected photos .* found none') as _:
        (tmp_path / 'empty/SegmentationClass').mkdir(parents=True)
        load_photos(tmp_path / 'empty/SegmentationClass')
    write_mask(photo_root / 'SegmentationClass/im3.png', np.zeros((50, 49), int), PALETTE)
    with pytest.raises(UserError, match=r'im3.png: expected .* \(50, 50\).* found \(50, 49\)'):
        load_photos(photo_root)


def test_class_scores() -> None:
    mask = np.full((64, 96), 7, np.uint8)
    mask[:, 64:] = 3
    mask[:16] = 255
    photo = Photo('x', np.zeros((64, 96, 3), np.uint8), mask)
    scores = class_scores(photo, 3, seed=1)
    assert scores.shape == (3, 64, 96) and scores.dtype == np.float32 and scores.min() > 0
    np.testing.assert_allclose(scores.sum(0), 1, rtol=1e-5)
    labels = scores.argmax(0)
    # The larger class comes first, away from the rims that the grid blurs.
    assert (labels[32:, :48] == 0).all() and (labels[32:, 80:] == 1).all()
    assert not (labels[32:] == 2).any()
    assert np.array_equal(scores, class_scores(photo, 3, seed=1))
    assert not np.array_equal(scores, class_scores(photo, 3, seed=2))
    assert not np.array_equal(scores, class_scores(photo._replace(name='y'), 3, seed=1))
    assert class_scores(photo, 1).shape == (1, 64, 96)
    half = photo.scaled(0.5)
    assert half.image.shape == (32, 48, 3) and set(np.unique(half.mask)) == {3, 7, 255}


def test_agreement_by_hand() -> None:
    def one_hot(labels: list[int]) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[labels].T[:, None]  # (3, 1, 5)
    before, reference = one_hot([0, 0, 1, 1, 2]), one_hot([0, 1, 2, 0, 2])
    found = agreement(one_hot([0, 1, 2, 1, 0]), reference, before)
    assert found == pytest.approx({'equal %': 60, 'changed %': 60, 'reproduced %': 200 / 3,
                                   'mean |dQ|': 4 / 15})
    unchanged = agreement(reference, reference, reference)
    assert unchanged['equal %'] == 100 and math.isnan(unchanged['reproduced %'])


def test_batches_agree_inside_the_padding() -> None:
    photos = [Photo(name, np.full((*size, 3), 5, np.uint8), np.zeros(size, np.uint8))
              for name, size in dict(a=(20, 30), b=(25, 18)).items()]
    batch = batch_of(photos, 2)
    assert batch.images.shape == (2, 3, 25, 30) and batch.sizes == [(20, 30), (25, 18)]
    assert batch.scores[0, :, 20:].abs().sum() == batch.images[1, :, :, 18:].sum() == 0
    assert batch.class_mask.all() and batch.class_mask.shape == (2, 2)
    other = batch.scores.clone()
    other[0, :, :10] = other[0, :, :10].flip(0)  # 300 of 1050 pixels get the other label
    other[0, :, 20:] = 9  # padding
    found = label_agreement(other, batch.scores)
    assert found['equal %'] == pytest.approx(100 * 750 / 1050, rel=1e-5)
    gap = (batch.scores[0, 0, :10] - batch.scores[0, 1, :10]).abs().sum().item() / 1050
    assert found['mean |dQ|'] == pytest.approx(gap, rel=1e-4)


def test_plans_agree() -> None:
    ours = torch.tensor([[[.4, .1, .0], [.1, .4, .0]], [[.1, .1, .2], [.2, .2, .2]]])
    first = np.array([[.1, .1], [.4, .4]])  # one of two pixels differs, by .3 in each class
    found = plan_agreement(ours, [first, ours[1]])
    assert found['equal %'] == pytest.approx(100 * 4 / 5)
    assert found['mean |dT|'] == pytest.approx(2 * 0.3 / 5)


@pytest.mark.parametrize('name', RIVALS)
@pytest.mark.parametrize('kind', ['numpy', 'torch'])
def test_pot_solves_the_same_problem(kind: str, name: str) -> None:
    scores = torch.rand(1, 4, 50, generator=torch.Generator().manual_seed(0))
    rival = RIVALS[name]
    cost = (1 - scores[0]).to(rival.dtype)
    plan, = pot_plans([cost.numpy() if kind == 'numpy' else cost], rival)
    found = plan_agreement(sinkhorn(scores, num_iters=rival.updates), [plan])
    assert found['equal %'] == 100 and found['mean |dT|'] < 1e-4
    assert torch.as_tensor(plan).dtype == rival.dtype
    other, = pot_plans([cost.numpy()], rival._replace(most=1))  # it does not stop at once
    assert np.abs(other - np.asarray(plan)).max() > 1e-5


def tiny_setup(**changes) -> Setup:
    return Setup(draw_photos(2, 64), (2, 3), (0.5, 1.0), (1, 2), repeats=1)._replace(**changes)


def test_crf_suite() -> None:
    rows = list(crf_rows(tiny_setup()))
    check_rows(rows, 'crf')
    # Exact and two fast ones per class count; scales; threads over images and inside; torch.
    assert len(rows) == 2 * 3 + 2 + 2 + 2
    assert [one.pixels for one in rows[:8]] == [4096] * 6 + [1024, 4096]
    assert [one.runs for one in rows[:3]] == [2, 2, 2]
    exact, fast = rows[0].figures, rows[1].figures
    assert exact['reproduced %'] > 98 and exact['equal %'] > 99.5 and exact['mean |dQ|'] < 2e-3
    assert exact['changed %'] == fast['changed %'] > 0 and 20 < fast['reproduced %'] < 100
    for same in rows[8:]:
        assert same.figures['equal %'] > 99.9 and same.figures['mean |dQ|'] < 1e-5
    assert torch.get_num_threads() == 1


def test_cpu_time_leaves_threads_out() -> None:
    rows = list(crf_rows(tiny_setup(cpu_time=True, classes=(2, ), scales=(1.0, ), batches=(1, ))))
    assert len(rows) == 3 + 1 + 1 and not any('threads' in one.what for one in rows)


def test_ot_suite() -> None:
    rows = list(ot_rows(tiny_setup()))
    check_rows(rows, 'ot')
    assert [(one.classes, one.pixels, one.batch) for one in rows[::3]] == [
        (2, 256, 1), (3, 256, 1), (21, 1024, 1), (21, 4096, 1), (21, 256, 2)]
    for one in rows:
        assert one.figures['equal %'] > 99 and one.figures['mean |dT|'] < 1e-3
    assert [one.what for one in rows[:3]] == [f'{name}: ours / POT' for name in RIVALS]


def test_dense_walk_by_hand() -> None:
    """Two pixels: a step keeps 1 / (1 + t) of each score, t the power of their affinity."""
    affinity = torch.zeros(34, 1, 2)
    affinity[0, 0, 0] = tie = 1e-3**(1 / BETA)  # offset (0, 1)
    start = torch.tensor([[[1., 0.]], [[2., 2.]]])
    walked = dense_walk(start, affinity)
    rest = ((1 - tie**BETA) / (1 + tie**BETA))**256
    torch.testing.assert_close(walked[0, 0], torch.tensor([1 + rest, 1 - rest]) / 2)
    torch.testing.assert_close(walked[1], start[1])


def test_walk_suite() -> None:
    rows = list(walk_rows(tiny_setup(photos=[*draw_photos(1, 64), *draw_photos(1, 160, 1)])))
    check_rows(rows, 'walk')
    assert [(one.classes, one.batch) for one in rows] == [(2, 1), (3, 1), (3, 1), (3, 1), (3, 2)]
    assert rows[2].pixels == (16 + 100) / 2 and rows[3].pixels == (64 + 400) / 2
    for one in rows:
        assert one.figures['equal %'] > 98 and one.figures['mean |dQ|'] < 1e-5


@pytest.fixture
def config(tagged_scenes, tiny_model, mmseg_modules, tmp_path) -> Iterator[Config]:
    """A config of two scenes, a tiny network, and a work directory of its own."""
    work = tmp_path / 'work'
    steps = [dict(type='LoadImageFromFile'),
             dict(type='LoadPseudoMask', mask_dir=str(work / 'base_masks'), num_classes=9),
             dict(type='TrackGeometry', transforms=[]),
             dict(type='LoadUSSFeatures', cache_dir=str(work / 'uss_features'), stride=4),
             dict(type='PackTaggedInputs')]
    built = Config(dict(
        model=tiny_model(), work_dir=str(work), crop_size=(64, 64),
        pseudo_label_dataset=tagged_scenes(steps),
        train_dataloader=dict(batch_size=2, num_workers=0, dataset=tagged_scenes(steps),
                              sampler=dict(type='InfiniteSampler', shuffle=False)),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))))
    limit_images(built, 2)
    yield built


def test_limit_images(config) -> None:
    for key in ('pseudo_label_dataset', 'train_dataloader'):
        found = config[key].get('dataset')
        assert found.get('dataset', found)['indices'] == 2
    assert len(build_dataset(config)) == 2


def test_tools_suite(config) -> None:
    rows = list(tool_rows(config, repeats=1))
    check_rows(rows, 'tools')
    assert [one.what.split(':')[0] for one in rows] == [
        'make_cams', 'extract_uss_features', 'make_base_masks', 'make_pseudo_labels']
    for one in rows:
        assert one.pixels == 4096 and one.figures['images/s'] == pytest.approx(1e3 / one.ours_ms)
    assert [one.ratio is None for one in rows] == [True, True, False, False]
    assert all(99 < one.figures['equal %'] <= 100 for one in rows[2:])


def test_train_suite(config) -> None:
    write_inputs(config, build_model(config, None), build_dataset(config))
    rows = list(train_rows(config, iters=1))
    check_rows(rows, 'train')
    assert [one.what.rpartition(' ')[2] for one in rows] == ['numba', 'pydensecrf']
    for one in rows:
        assert (one.classes, one.pixels, one.batch, one.runs) == (9, 4096, 2, 1)
        assert one.figures['R_C ms'] > 0 and one.figures['network ms'] > 0
        assert one.figures['USS encoder ms'] == 0  # cached
        slower = 1 / one.ratio.median - 1
        assert one.figures['DHR costs %'] == pytest.approx(100 * slower)


def test_implementations_of_r_c(config) -> None:
    found = [changed.model.propagation.refine for _, changed in refiners(config)]
    assert found == [dict(type='DenseCRF', backend=name) for name in ('numba', 'pydensecrf')]
    for other in (dict(type='PAMR'), None):
        config.model.propagation.refine = other
        (name, same), = refiners(config)
        assert name == '' and same is config
    config.model.propagation.refine = dict(type='DenseCRF', iterations=3, backend='torch')
    for _, changed in refiners(config):
        assert changed.model.propagation.refine.iterations == 3
