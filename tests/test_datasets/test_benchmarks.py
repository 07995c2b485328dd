"""The traps of the benchmarks: labels that move by one, no background, grey photos, no tag."""
from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmseg_dhr.apis import BaseMaskSettings, write_base_masks, write_pseudo_labels
from mmseg_dhr.apis.analysis import truth_folder
from mmseg_dhr.apis.common import list_photos, read_truth
from mmseg_dhr.datasets import LoadPseudoMask
from mmseg_dhr.evaluation import MaskWriterHook, list_pairs, score_pairs
from mmseg_dhr.formats import read_mask, write_mask
from mmseg_dhr.utils import load_config
from tests.data_sets import DATA_SETS, draw
from tests.data_sets.page import read_page

NO_BACKGROUND = ['context', 'ade', 'stuff']


@pytest.fixture
def load(repo_root, tmp_path, monkeypatch, mmseg_modules):
    """Draws a data set; gives it and its config."""
    monkeypatch.setenv('MMSEG_DHR_DATA', '')  # the variable's value of before comes back

    def load(name):
        drawn = draw(name, tmp_path / name)
        return drawn, load_config(repo_root / f'configs/dhr/{name}_r101.py',
                                  data_root=str(drawn.root))

    return load


def plain(config, **changes):
    """The training images of a config as a plain mmseg data set."""
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    dataset = config.train_dataloader.dataset.dataset.to_dict()
    prefix = dict(dataset.pop('data_prefix'), **changes.pop('data_prefix', {}))
    return DATASETS.build({**dataset, 'data_prefix': prefix, 'pipeline': pipeline, **changes})


@pytest.mark.parametrize('name', DATA_SETS)
class TestEachDataSet:

    def test_tags(self, load, name):
        drawn, config = load(name)
        tagged = DATASETS.build(config.pseudo_label_dataset)
        classes = tagged.metainfo['classes']
        assert len(classes) == len(tagged.metainfo['palette']) == config.num_classes
        for index, image_id in enumerate(tagged.image_ids):
            assert [classes[t].strip() for t in tagged.image_labels(index)] == drawn.tags[image_id]

    def test_masks_to_validate_with(self, load, name):
        drawn, config = load(name)
        dataset = DATASETS.build(config.val_dataloader.dataset)
        assert len(dataset) == len(drawn.shown('val'))
        for sample, image_id in zip(dataset, drawn.shown('val'), strict=True):
            np.testing.assert_array_equal(sample['data_samples'].gt_sem_seg.data[0].numpy(),
                                          drawn.masks[image_id])

    def test_masks_that_are_written_are_read_alike(self, load, name, tmp_path):
        """By LoadPseudoMask, by a plain mmseg data set as the page says, and by the scores."""
        drawn, config = load(name)
        tagged = DATASETS.build(config.pseudo_label_dataset)
        for image_id in tagged.image_ids:
            write_mask(tmp_path / f'pseudo/{image_id}.png', drawn.masks[image_id],
                       tagged.metainfo['palette'])
        ours = LoadPseudoMask(str(tmp_path / 'pseudo'), config.num_classes, required=True)
        change = dict(reduce_zero_label=False, seg_map_suffix='.png') if name in NO_BACKGROUND \
            else {}
        theirs = plain(config, data_prefix=dict(seg_map_path=str(tmp_path / 'pseudo')), **change)
        for index, image_id in enumerate(tagged.image_ids):
            sample = theirs[index]
            np.testing.assert_array_equal(sample['gt_seg_map'], drawn.masks[image_id])
            found = ours(dict(img=sample['img'], img_path=sample['img_path']))['gt_seg_map']
            np.testing.assert_array_equal(found, drawn.masks[image_id])


@pytest.mark.parametrize('name', ['context', 'ade'])
def test_a_plain_config_without_the_change_is_off_by_one(load, name, tmp_path):
    """Why the page says to switch the shift off."""
    drawn, config = load(name)
    mask = drawn.masks[drawn.train[0]]
    write_mask(tmp_path / f'pseudo/{drawn.train[0]}.png', mask, [[0, 0, 0]])
    found = plain(config, data_prefix=dict(seg_map_path=str(tmp_path / 'pseudo')))[0]
    np.testing.assert_array_equal(
        found['gt_seg_map'], np.where((mask == 0) | (mask == 255), 255, mask - 1))


def test_the_page_shows_the_change(repo_root):
    (block, ) = re.findall(r'```python\n(.*?)```', read_page(repo_root), re.DOTALL)
    settings: dict = {}
    exec(block, settings)
    dataset = settings['train_dataloader']['dataset']
    assert dataset['reduce_zero_label'] is False and dataset['seg_map_suffix'] == '.png'
    assert dict(type='LoadAnnotations') in dataset['pipeline']


@pytest.mark.parametrize('name', ['context', 'ade'])
def test_predictions_are_scored_against_the_official_masks(load, name, tmp_path):
    """What MaskWriterHook writes is 0-based; the files of the data set are not."""
    drawn, config = load(name)
    dataset = DATASETS.build(config.test_dataloader.dataset)
    hook = MaskWriterHook(tmp_path / 'predicted')
    runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=dataset))
    for sample in dataset:
        truth = sample['data_samples']
        perfect = SegDataSample(pred_sem_seg=PixelData(data=truth.gt_sem_seg.data),
                                metainfo=dict(img_path=truth.img_path))
        hook.after_test_iter(runner, 0, outputs=[perfect])
    for image_id in drawn.val:
        np.testing.assert_array_equal(read_mask(tmp_path / f'predicted/{image_id}.png'),
                                      drawn.masks[image_id])
    pairs, _ = list_pairs(dataset, tmp_path / 'predicted')
    scores = score_pairs(pairs, config.num_classes, None, progress=False).compute()
    assert scores.all.miou == pytest.approx(100)


@pytest.mark.parametrize('name', DATA_SETS)
def test_pseudo_labels_are_scored_against_the_masks_of_the_config(load, name, tmp_path):
    """COCO-Stuff has files {id}.png of other numbers beside them."""
    drawn, config = load(name)
    dataset = DATASETS.build(config.pseudo_label_dataset)
    truth = truth_folder(config, dataset)
    for photo in list_photos(dataset):
        mask = drawn.masks[photo.img_id]
        np.testing.assert_array_equal(read_truth(truth, photo), mask)
        write_mask(tmp_path / f'pseudo/{photo.img_id}.png', np.where(mask == 255, 0, mask),
                   dataset.metainfo['palette'])
    pairs, _ = list_pairs(dataset, tmp_path / 'pseudo', truth.folder)
    scores = score_pairs(pairs, config.num_classes, config.background_index, progress=False)
    assert scores.compute().all.miou == pytest.approx(100)


class TestGreyAndUntagged:

    def test_grey_photos_have_three_channels(self, load):
        _, config = load('coco')
        dataset = DATASETS.build(config.pseudo_label_dataset)
        grey = dataset[0]['inputs']
        assert grey.shape[0] == 3
        assert (grey[0] == grey[1]).all() and (grey[0] == grey[2]).all()
        colour = dataset[1]['inputs']
        assert (colour[0] != colour[1]).any()

    def test_a_whole_list_with_an_untagged_image(self, load):
        drawn, config = load('coco')
        config.pseudo_label_dataset.dataset.ann_file = 'lists/train2014.txt'
        dataset = DATASETS.build(config.pseudo_label_dataset)
        assert list(dataset.image_ids) == drawn.train
        assert dataset.image_labels(len(dataset) - 1) == ()


@pytest.mark.parametrize(('name', 'untagged'), [('coco', 0), ('ade', 255)])
def test_masks_with_and_without_background(load, name, untagged, tiny_model, tmp_path):
    """CAM, base masks and DHR's masks; an image without tag is background, or ignored."""
    drawn, config = load(name)
    if name == 'coco':
        config.pseudo_label_dataset.dataset.ann_file = 'lists/train2014.txt'
    dataset = DATASETS.build(config.pseudo_label_dataset)
    layout = dict(num_classes=config.num_classes, background_index=config.background_index)
    torch.manual_seed(0)
    model = MODELS.build(tiny_model(
        num_classes=config.num_classes, head=dict(num_classes=config.num_classes),
        cam_head=dict(type='CAMHead', in_channels=64, **layout),
        propagation=dict(type='DHRPropagation', stride=2, **layout)))
    settings = BaseMaskSettings(crf=None, background_index=config.background_index)
    write_base_masks(dataset, tmp_path / 'base', settings, model=model)
    write_pseudo_labels(model, dataset, tmp_path / 'dhr')
    for index, image_id in enumerate(dataset.image_ids):
        tags = set(dataset.image_labels(index))
        base, dhr = (set(np.unique(read_mask(tmp_path / f'{folder}/{image_id}.png')))
                     for folder in ('base', 'dhr'))
        if not tags:
            assert base == dhr == {untagged}
            continue
        assert base <= {*tags, config.background_index}
        # Of random CAMs some leave pixels where no class has any score.
        assert dhr <= {*tags, config.background_index, 255} and dhr & tags
