from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample
from PIL import Image


def test_masks_are_written_with_the_palette_of_the_data_set(tmp_path):
    palette = [[0, 0, 0], [200, 10, 20], [1, 2, 3]]
    mask = torch.tensor([[[0, 1], [2, 1]]])
    sample = SegDataSample(metainfo=dict(img_path='folder/2007_000001.x.jpg'))
    sample.pred_sem_seg = PixelData(data=mask)
    runner = SimpleNamespace(test_dataloader=SimpleNamespace(
        dataset=SimpleNamespace(metainfo=dict(palette=palette))))
    hook = HOOKS.build(dict(type='MaskWriterHook', out_dir=str(tmp_path / 'new')))
    hook.after_test_iter(runner, 0, {}, [sample])
    image = Image.open(tmp_path / 'new' / '2007_000001.x.png')
    assert image.mode == 'P'
    np.testing.assert_array_equal(np.array(image), mask[0].numpy())
    assert image.getpalette()[:9] == [0, 0, 0, 200, 10, 20, 1, 2, 3]


def test_progress_counts_batches(monkeypatch, capsys):
    monkeypatch.setattr('sys.stderr.isatty', lambda: True)
    hook = HOOKS.build(dict(type='TestProgressHook'))
    hook.before_test_epoch(SimpleNamespace(test_dataloader=[0, 1, 2]))
    for i in range(3):
        hook.after_test_iter(None, i)
    assert (hook.bar.n, hook.bar.total) == (3, 3)
    hook.after_test_epoch(None)
    assert 'Testing: 100%' in capsys.readouterr().err


def test_no_progress_bar_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr('sys.stderr.isatty', lambda: False)
    hook = HOOKS.build(dict(type='TestProgressHook'))
    hook.before_test_epoch(SimpleNamespace(test_dataloader=[0]))
    hook.after_test_iter(None, 0)
    hook.after_test_epoch(None)
    assert capsys.readouterr().err == ''
