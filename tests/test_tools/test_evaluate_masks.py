from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS

from mmseg_dhr.evaluation import MaskScores
from mmseg_dhr.formats import read_mask

CLASSES = ['background', 'cat', 'dog']


@pytest.fixture
def masks(voc_dir, tmp_path):
    """Predictions of im0 and im1 (their truth, one of them mirrored) and of no image."""
    truth = voc_dir / 'SegmentationClassAug'
    folder = tmp_path / 'pred'
    folder.mkdir()
    shutil.copy(truth / 'im0.png', folder)
    shutil.copy(truth / 'im2.png', folder / 'im1.png')
    shutil.copy(truth / 'im2.png', folder / 'other.png')
    return folder


def expected_scores(voc_dir, masks, tags=None):
    scores = MaskScores(3)
    for name in ('im0', 'im1'):
        scores.update(read_mask(masks / f'{name}.png'),
                      read_mask(voc_dir / f'SegmentationClassAug/{name}.png'), tags)
    return scores.compute()


def test_config(run_tool, write_config, voc_dir, masks, capfd):
    code = run_tool('evaluate_masks', masks, '--config', write_config(), '--data-root', voc_dir,
                    '--json', 'scores.json', '--per-class', '--jobs', '1')
    output, error = capfd.readouterr()
    assert code == 0
    expected = expected_scores(voc_dir, masks)
    figures = json.loads(Path('scores.json').read_text())
    assert figures['all'] == expected.all.as_dict(CLASSES)
    assert figures['multi']['miou'] == expected.multi.miou
    assert figures['missing'] == []
    assert '2 masks scored' in output and f'{expected.all.miou:.2f}' in output
    assert f'{expected.all.iou[2]:.2f}' in output
    assert '1 masks are of no image of the data set (not scored): other' in error


def test_missing_masks_are_listed(run_tool, write_config, voc_dir, masks, capfd):
    (masks / 'im1.png').unlink()
    assert run_tool('evaluate_masks', masks, '--config', write_config(), '--data-root', voc_dir,
                    '--jobs', '1', '--json', 'scores.json') == 0
    assert '1 images of the data set have no mask there: im1' in capfd.readouterr().err
    assert json.loads(Path('scores.json').read_text())['missing'] == ['im1']


def test_folders(run_tool, voc_dir, masks, capfd):
    (voc_dir / 'labels.json').write_text('{"im0": ["cat"], "im1": ["cat"], "other": []}')
    shutil.copy(masks / 'other.png', voc_dir / 'SegmentationClassAug')
    (masks / 'other.png').unlink()
    code = run_tool('evaluate_masks', masks, '--gt-dir', voc_dir / 'SegmentationClassAug',
                    '--classes', *CLASSES, '--labels', voc_dir / 'labels.json', '--jobs', '2',
                    '--json', 'scores.json')
    assert code == 0
    expected = expected_scores(voc_dir, masks, (1, ))
    figures = json.loads(Path('scores.json').read_text())
    assert figures['all'] == expected.all.as_dict(CLASSES)
    assert figures['multi']['images'] == 0
    assert 'im2, im3, other' in capfd.readouterr().err


@pytest.mark.parametrize('suffix', ['JSON', 'txt', ''])
def test_suffix_of_labels(run_tool, voc_dir, masks, capfd, suffix):
    labels = voc_dir / f'labels.{suffix}'.rstrip('.')
    labels.write_text('{"im0": ["cat"], "im1": ["cat"], "im2": [], "im3": []}')
    code = run_tool('evaluate_masks', masks, '--gt-dir', voc_dir / 'SegmentationClassAug',
                    '--classes', *CLASSES, '--labels', labels, '--jobs', '1')
    if suffix == 'JSON':
        assert code == 0
    else:
        assert code == 2
        assert f'{labels}: expected image-level labels in a file .json, .csv, .npy' \
            in capfd.readouterr().err


def test_one_data_set_for_all_folders(run_tool, write_config, voc_dir, masks, monkeypatch):
    shutil.copytree(masks, 'more')
    built = []
    build = DATASETS.build
    monkeypatch.setattr(DATASETS, 'build', lambda config: built.append(1) or build(config))
    assert run_tool('evaluate_masks', masks, 'more', '--config', write_config(), '--data-root',
                    voc_dir, '--jobs', '1', '--json', 'scores.json') == 0
    one, more = json.loads(Path('scores.json').read_text()).values()
    assert one == more and len(built) == 1


def test_tags_and_truth_of_a_tagged_train_set(run_tool, write_config, voc_dir, masks):
    """Its images have no masks of their own in the config; `score_masks` names them."""
    (voc_dir / 'labels.json').write_text('{"im0": ["cat"], "im1": ["cat"]}')
    config = write_config()
    with open(config, 'a') as file:
        file.write("\ntrain_dataloader['dataset'] = dict(type='TaggedDataset', labels=dict(\n"
                   "    type='json', path='labels.json'), dataset=dict(\n"
                   "        images, data_prefix=dict(img_path='JPEGImages'),\n"
                   "        ann_file='ImageSets/train.txt', pipeline=[dict(type='NoSuchThing')]))\n"
                   "score_masks = 'SegmentationClassAug'\n")
    assert run_tool('evaluate_masks', masks, '--config', config, '--data-root', voc_dir,
                    '--json', 'scores.json', '--jobs', '1') == 0
    figures = json.loads(Path('scores.json').read_text())
    assert figures['all'] == expected_scores(voc_dir, masks, (1, )).all.as_dict(CLASSES)


def test_background_of(load_tool):
    tool = load_tool('evaluate_masks')
    assert tool.background_of(['a', 'Background']) == 1
    assert tool.background_of(['_background_', 'a']) == 0
    assert tool.background_of(['wall', 'sky']) is None


def test_errors(run_tool, write_config, voc_dir, masks, capfd):
    assert run_tool('evaluate_masks', masks) == 2
    assert 'give --config, or --gt-dir and --classes' in capfd.readouterr().err
    np.save(voc_dir / 'x.npy', 1)
    for arguments, message in [
        (['--config', write_config(), '--split', 'val'], 'no `val_dataloader`'),
        (['--gt-dir', 'absent', '--classes', 'a'], 'absent: expected a folder of masks'),
        (['--gt-dir', voc_dir / 'SegmentationClassAug', '--classes', 'a'], 'in [0, 1)'),
    ]:
        assert run_tool('evaluate_masks', masks, '--jobs', '1', *arguments) == 2
        assert message in capfd.readouterr().err.strip().split('\n')[-1]
