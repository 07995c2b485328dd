"""configs/dhr/{voc,coco,context,ade,stuff}_r101.py: train, test and write pseudo-labels."""
from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from mmseg.registry import DATASETS

from mmseg_dhr.formats import read_mask
from mmseg_dhr.models import DHRPropagation
from mmseg_dhr.utils import load_config
from tests.data_sets import (
    DATA_SETS,
    RANDOM_VIT,
    SMALL_DATA,
    SMALL_R101,
    draw,
    short_run,
)
from tests.data_sets.page import commands_of, run_commands


@pytest.fixture
def propagated(monkeypatch) -> list:
    """(tags, masks) of every batch that DHR propagates."""
    batches = []
    run = DHRPropagation.__call__

    def record(self, batch, stages=False):
        result = run(self, batch, stages)
        batches.append((batch.tags, result.final))
        return result

    monkeypatch.setattr(DHRPropagation, '__call__', record)
    return batches


@pytest.mark.parametrize('name', DATA_SETS)
def test_train_test_and_pseudo_labels(name, repo_root, run_tool, propagated, capfd):
    """The commands of the page, with a small network, small crops and three iterations."""
    cfg = load_config(repo_root / f'configs/dhr/{name}_r101.py')
    drawn = draw(name, cfg.data_root)
    classes = [c.strip() for c in DATASETS.get(cfg.images.type).METAINFO['classes']]
    assert len(classes) == cfg.num_classes
    no_class = {cfg.background_index, 255}
    small = ['--cfg-options', *SMALL_DATA, *SMALL_R101]
    commands = [[re.sub(r'iter_\d+', 'iter_3', word.replace('ade_', f'{name}_'))
                 for word in command]
                for command in commands_of(repo_root, 'Train, test, pseudo-labels')]
    options = dict(train=[*small, *RANDOM_VIT, *short_run(3, warmup=1)], test=small,
                   make_pseudo_labels=[*small, *RANDOM_VIT],
                   evaluate_masks=['--jobs', '1', '--json', 'scores.json'])
    assert [tool for tool, *_ in commands] == list(options)

    run_commands(commands[:1], run_tool, repo_root, options)
    assert len(propagated) == 2  # online, after the warm-up
    for tags, masks in propagated:
        for row, mask in zip(tags, masks, strict=True):
            assert not no_class & set(row)
            assert set(mask.unique().tolist()) <= {*row, *no_class}

    capfd.readouterr()
    run_commands(commands[1:2], run_tool, repo_root, options)
    rows = re.findall(r'\| +(\S[^|]*?) +\| +(?:[\d.]+|nan) +\|', ''.join(capfd.readouterr()))
    assert rows == classes
    for image_id in drawn.shown('val'):
        assert read_mask(f'predicted/{image_id}.png').shape == drawn.masks[image_id].shape

    run_commands(commands[2:], run_tool, repo_root, options)
    for image_id in drawn.shown('train'):
        mask = read_mask(f'pseudo/{image_id}.png')
        assert mask.shape == drawn.masks[image_id].shape
        labels = {classes.index(tag) for tag in drawn.tags[image_id]}
        assert set(np.unique(mask)) <= labels | no_class
    assert 'all' in json.loads(Path('scores.json').read_text())
