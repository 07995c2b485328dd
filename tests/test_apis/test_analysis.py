"""Heat maps of points, class correlation, timing and what the analysis commands share."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmseg.registry import MODELS

from mmseg_dhr.apis.analysis import change_transforms, settings_of, truth_folder, write_result
from mmseg_dhr.apis.correlation import class_correlations, closest_pairs
from mmseg_dhr.apis.heatmaps import point_maps, point_similarity
from mmseg_dhr.apis.training_time import PARTS, time_training
from mmseg_dhr.formats import read_mask
from mmseg_dhr.ops import class_area_fractions
from mmseg_dhr.utils import UserError


def test_point_similarity_by_hand() -> None:
    features = torch.tensor([[[1., 0.], [3., -2.]], [[0., 5.], [3., 0.]]])  # (D, h, w)
    half = 0.5**0.5
    for point, expected in {(0, 0): [[1, 0], [half, -1]], (9, 4): [[1, 0], [half, -1]],
                            (10, 0): [[0, 1], [half, 0]], (3, 5): [[half, half], [1, -half]]
                            }.items():
        found = point_similarity(features, point, (10, 20))
        torch.testing.assert_close(found, torch.tensor(expected))
    zero = point_similarity(torch.zeros(3, 1, 2), (0, 0), (4, 4))
    assert torch.equal(zero, torch.zeros(1, 2))
    for point in ((20, 0), (0, 10), (-1, 0)):
        with pytest.raises(ValueError, match='image of 20 x 10 pixels'):
            point_similarity(features, point, (10, 20))


def test_point_maps(model, photos) -> None:
    image, (first, second) = point_maps(model, photos, 'a', [(5, 40), (36, 0)])
    assert image.shape == (41, 37, 3) and image.dtype == np.uint8
    original = photos[0]['inputs'].permute(1, 2, 0).numpy()[..., ::-1]
    assert np.abs(original.astype(int) - image).max() <= 1
    assert first.point == (5, 40) and second.title == '36,0'
    names = [name.split(' (')[0] for name in first.maps]
    assert names == ['USS', 'WSS level -2', 'WSS level -1']  # two levels, even of one size
    for maps in (first, second):
        for cosine in maps.maps.values():
            assert cosine.shape == (41, 37) and np.abs(cosine).max() <= 1 + 1e-5


def test_points_default_to_the_cam_peaks(model, photos) -> None:
    _, found = point_maps(model, photos, 'a')
    assert [maps.title for maps in found] == ['one', 'two']
    for maps in found:
        assert 0 <= maps.point[0] < 37 and 0 <= maps.point[1] < 41
    with pytest.raises(UserError, match='Image c has no tags'):
        point_maps(model, photos, 'c')
    with pytest.raises(UserError, match="No image 'x' .* such as a, b, c"):
        point_maps(model, photos, 'x')


def test_correlation_against_plain_loops(model, scenes, scenes_root) -> None:
    truth = scenes_root / 'SegmentationClass'
    found = class_correlations(model, scenes, batch_size=4, truth_dir=truth)
    sums = {name: torch.zeros(9, 9) for name in ('count', 'raw', 'centred')}
    total, area, means = torch.zeros(9, 16), torch.zeros(9), []
    for i in range(6):
        image = scenes[i]['inputs'].flip(0).float()
        features = model.uss_encoder(image[None])[0][0]
        means.append(features.mean((1, 2)))
        mask = torch.from_numpy(read_mask(truth / f'{scenes.image_ids[i]}.png')).long()
        weights = class_area_fractions(mask[None], torch.arange(9)[None],
                                       torch.ones(1, 9, dtype=torch.bool), features.shape[1:])[0]
        pooled = {c: (features * weights[c]).sum((1, 2)) for c in range(9) if weights[c].sum() > 0}
        if total.shape[1] != len(features):
            total = torch.zeros(9, len(features))
        for c, value in pooled.items():
            total[c] += value
            area[c] += weights[c].sum()
        for a, first in pooled.items():
            for b, second in pooled.items():
                first_, second_ = first / weights[a].sum(), second / weights[b].sum()
                sums['count'][a, b] += 1
                sums['raw'][a, b] += F.cosine_similarity(first_, second_, dim=0)
                sums['centred'][a, b] += F.cosine_similarity(first_ - means[-1],
                                                             second_ - means[-1], dim=0)
    seen = sums['count'] > 0
    assert torch.equal(found.images, sums['count'].long()) and not seen.all()
    for name in ('raw', 'centred'):
        ours = getattr(found, name)
        torch.testing.assert_close(ours[seen], (sums[name] / sums['count'])[seen], atol=1e-4,
                                   rtol=0)
        assert ours[~seen].isnan().all()
    centroids = total / area.clamp_min(1e-6)[:, None]
    mean = torch.stack(means).mean(0)
    for ours, moved in ((found.dataset_raw, centroids), (found.dataset_centred, centroids - mean)):
        for a in range(9):
            for b in range(9):
                if area[a] and area[b]:
                    expected = F.cosine_similarity(moved[a], moved[b], dim=0)
                    assert ours[a, b].item() == pytest.approx(expected.item(), abs=1e-4)
                else:
                    assert ours[a, b].isnan()


def test_correlation_of_m_init(model, scenes_with_base, scenes_root) -> None:
    """With M_base = truth, nothing is recovered: M_init is the truth."""
    truth = scenes_root / 'SegmentationClass'
    given = class_correlations(model, scenes_with_base(), every=2)
    true = class_correlations(model, scenes_with_base(), every=2, truth_dir=truth)
    for ours, theirs in zip(given, true, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)
    assert given.images.max() <= 3
    pairs = closest_pairs(given, range(1, 9), 4)
    assert [p.raw for p in pairs] == sorted((p.raw for p in pairs), reverse=True)
    assert all(0 < p.first < p.second and p.images > 0 for p in pairs)
    raw = given.raw[1:, 1:].masked_fill(torch.eye(8, dtype=torch.bool), -2).nan_to_num(-2)
    assert pairs[0].raw == pytest.approx(raw.max().item())


def test_linked_is_the_share_above_tau(build_model, scenes) -> None:
    shares = [class_correlations(
        build_model(propagation=dict(type='DHRPropagation', num_classes=9, stride=2, tau=tau)),
        scenes).linked.nan_to_num(-1) for tau in (-1.01, 0.8, 1.01)]
    seen = shares[0] >= 0
    assert (shares[0][seen] == 1).all() and (shares[2][seen] == 0).all()
    assert 0 < shares[1][seen].mean() < 1


@pytest.fixture
def training(tagged_scenes, scenes_root):
    """Config of a training on the scenes, with or without M_base."""
    def config(masks: str | None = 'SegmentationClass') -> Config:
        folder = None if masks is None else str(scenes_root / masks)
        pipeline = [dict(type='LoadImageFromFile'),
                    dict(type='LoadPseudoMask', mask_dir=folder, num_classes=9),
                    dict(type='PackTaggedInputs')]
        return Config(dict(
            train_dataloader=dict(batch_size=2, num_workers=1, persistent_workers=True,
                                  prefetch_factor=2,
                                  sampler=dict(type='InfiniteSampler', shuffle=False),
                                  dataset=tagged_scenes(pipeline)),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))))
    return config


def test_times(tiny_model, training, mmseg_modules) -> None:
    model = MODELS.build(tiny_model(overlap=True))
    propagation, refine = model.propagation, model.propagation.refine
    before = {name: value.clone() for name, value in model.state_dict().items()}
    times = time_training(model, training(), iters=2, discard=1)
    assert all(len(rows) == 2 for rows in times)
    assert min(*times.given, *times.online) > 0
    for row in times.parts:
        assert tuple(row) == PARTS and min(row.values()) > 0
    # A clock that stands still: everything is timed by it.
    still = time_training(model, training(), iters=1, discard=0, timer=lambda: 3.0)
    assert still == ([0], [0], [dict.fromkeys(PARTS, 0)])
    # The timers are gone, and the network was trained.
    assert model.propagation is propagation and propagation.refine is refine
    assert 'forward' not in vars(model.uss_encoder) and model.overlap is True
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_times_need_masks_and_a_propagation(tiny_model, training, mmseg_modules) -> None:
    with pytest.raises(UserError, match='`model.propagation` is a DHRPropagation'):
        time_training(MODELS.build(tiny_model(propagation=None)), training(), 1)
    with pytest.raises(UserError, match=r'loads no M_base.*make_base_masks'):
        time_training(MODELS.build(tiny_model()), training(None), 1)


def test_change_transforms() -> None:
    load = dict(type='Load', path='a')
    config = ConfigDict(dataset=dict(type='Wrapper', pipeline=[
        dict(type='Load', path='b'), dict(type='Track', transforms=(load, dict(type='Flip')))]),
        size=(3, 4), other=[1])
    kept = config.to_dict()
    changed, count = change_transforms(config, 'Load', lambda t: {**t, 'path': t['path'] * 2})
    pipeline = changed['dataset']['pipeline']
    assert count == 2 and pipeline[0]['path'] == 'bb' and changed['size'] == (3, 4)
    assert pipeline[1]['transforms'] == (dict(load, path='aa'), dict(type='Flip'))
    without, count = change_transforms(config, 'Load', lambda _: None)
    assert count == 2 and without['dataset']['pipeline'] == [
        dict(type='Track', transforms=(dict(type='Flip'), ))]
    assert config.to_dict() == kept
    assert change_transforms(config, 'Absent', lambda _: None) == (kept, 0)


def test_settings_and_files(tmp_path, scenes) -> None:
    (tmp_path / 'c.py').write_text("randomness = dict(seed=5)\ndata_root = 'd'\n")
    config = Config.fromfile(tmp_path / 'c.py')
    settings = settings_of(config, every=2)
    assert settings == dict(config=str(tmp_path / 'c.py'), data_root='d', seed=5,
                            propagation=None, every=2)
    path = write_result(tmp_path / 'new', 'x', 'text', settings, [1, dict(a=float('nan'))])
    assert json.loads(path.read_text()) == dict(settings=settings, figures=[1, dict(a=None)])
    assert path.with_suffix('.txt').read_text() == 'text\n'
    with pytest.raises(UserError, match='no `score_masks`'):
        truth_folder(config, scenes)
