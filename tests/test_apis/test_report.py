from __future__ import annotations

import numpy as np
import pytest
from mmseg.registry import DATASETS

from mmseg_dhr.apis import STAGES, list_photos, pseudo_label_stages, read_rgb
from mmseg_dhr.apis.report import (
    STAGE_NAMES,
    example_pictures,
    pick_examples,
    predict_mask,
    stage_report,
)
from mmseg_dhr.evaluation import MaskScores
from mmseg_dhr.formats import read_mask
from mmseg_dhr.utils import UserError


def test_figures_by_hand(model, scenes_with_base, scenes_root, tmp_path) -> None:
    dataset, truth_dir = scenes_with_base(), scenes_root / 'SegmentationClass'
    keep = dataset.image_ids[3]
    report = stage_report(model, dataset, truth_dir, [keep], batch_size=2)
    assert list(report.scores) == list(STAGES) == list(STAGE_NAMES)
    expected = {name: MaskScores(9, 0) for name in STAGES}
    for index, masks in pseudo_label_stages(model, dataset, list(range(6))):
        truth = read_mask(truth_dir / f'{dataset.image_ids[index]}.png')
        for name, mask in masks.items():
            expected[name].update(mask, truth, dataset.image_labels(index))
            if index == 3:
                assert np.array_equal(report.masks[keep][name], mask)
    for name in STAGES:
        ours, theirs = report.scores[name].compute(), expected[name].compute()
        assert ours.all.as_dict() == theirs.all.as_dict()
        assert ours.multi.as_dict() == theirs.multi.as_dict()
    assert report.scores['base'].compute().all.miou == 100
    assert report.scores['final'].compute().all.images == 6
    assert list(report.masks) == [keep]


def test_truth_is_missing(model, scenes, tmp_path) -> None:
    with pytest.raises(UserError, match=rf'no true mask for image {scenes.image_ids[0]}.*'
                       'score_masks'):
        stage_report(model, scenes, tmp_path)


def test_without_m_base_there_is_no_such_row(model, scenes, scenes_root) -> None:
    report = stage_report(model, scenes, scenes_root / 'SegmentationClass')
    assert list(report.scores) == list(STAGES[1:]) and report.masks == {}


def test_examples_have_several_tags(photos, scenes) -> None:
    assert [photo.img_id for photo in pick_examples(photos, 2)] == ['a']
    several = [photo for photo in list_photos(scenes) if len(photo.tags) > 1]
    assert pick_examples(scenes, 100) == several
    assert pick_examples(scenes, 1) == several[:1]
    assert len(pick_examples(scenes, 2)) == 2


def test_prediction_is_that_of_the_test_pipeline(model, tagged_scenes) -> None:
    config = tagged_scenes([dict(type='LoadImageFromFile'), dict(type='PackSegInputs')])
    packed = DATASETS.build(config)[2]
    data = model.data_preprocessor(dict(inputs=[packed['inputs']],
                                        data_samples=[packed['data_samples']]), training=False)
    expected = model.predict(data['inputs'], data['data_samples'])[0].pred_sem_seg.data[0]
    image = read_rgb(packed['data_samples'].img_path)
    mask = predict_mask(model, image)
    assert mask.dtype == np.uint8 and len(np.unique(mask)) > 1
    assert np.array_equal(mask, expected.numpy())


def test_pictures(model, scenes, scenes_root) -> None:
    photo = list_photos(scenes)[0]
    truth = scenes_root / 'SegmentationClass'
    palette = scenes.metainfo['palette']
    pictures = example_pictures(model, photo, truth, palette, {'M_dh': np.ones((64, 64), np.uint8)})
    assert list(pictures) == ['image', 'truth', 'CAM (maximum over tags)', 'M_dh', 'prediction']
    assert {picture.shape for picture in pictures.values()} == {(64, 64, 3)}
    mask = read_mask(truth / f'{photo.img_id}.png')
    labelled = mask != 255
    assert np.array_equal(pictures['truth'][labelled],
                          np.asarray(palette, np.uint8)[mask[labelled]])
    without = example_pictures(model, photo._replace(tags=()), truth, palette, {})
    assert list(without) == ['image', 'truth', 'prediction']
