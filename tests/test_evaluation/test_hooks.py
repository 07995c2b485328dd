from __future__ import annotations

import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.datasets import PascalVOCDataset
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample
from PIL import Image

from mmseg_dhr.formats import read_mask
from mmseg_dhr.utils import UserError


def test_masks_are_written_with_the_palette_of_the_data_set(tmp_path):
    palette = [[0, 0, 0], [200, 10, 20], [1, 2, 3]]
    mask = torch.tensor([[[0, 1], [2, 1]]])
    sample = SegDataSample(metainfo=dict(img_path='folder/2007_000001.x.jpg'))
    sample.pred_sem_seg = PixelData(data=mask)
    runner = SimpleNamespace(test_dataloader=SimpleNamespace(
        dataset=SimpleNamespace(metainfo=dict(palette=palette))))
    hook = HOOKS.build(dict(type='MaskWriterHook', out_dir=str(tmp_path / 'new')))
    hook.before_test_epoch(runner)
    hook.after_test_iter(runner, 0, {}, [sample])
    image = Image.open(tmp_path / 'new' / '2007_000001.x.png')
    assert image.mode == 'P'
    np.testing.assert_array_equal(np.array(image), mask[0].numpy())
    assert image.getpalette()[:9] == [0, 0, 0, 200, 10, 20, 1, 2, 3]


def test_only_predictions_are_replaced(tmp_path):
    hook = HOOKS.build(dict(type='MaskWriterHook', out_dir=str(tmp_path / 'new')))
    for label in (1, 2):
        hook.before_test_epoch(runner_of())
        hook.after_test_iter(runner_of(), 0, {}, predicted([[label]], 'a'))
        assert read_mask(tmp_path / 'new' / 'a.png').tolist() == [[label]]
    photos = tmp_path / 'photos'
    photos.mkdir()
    (photos / 'a.png').write_text('a photo')
    hook = HOOKS.build(dict(type='MaskWriterHook', out_dir=str(photos)))
    with pytest.raises(ValueError, match=r'photos: .* found 1 \*\.png files of unknown origin'):
        hook.before_test_epoch(runner_of())
    assert (photos / 'a.png').read_text() == 'a photo'


def test_images_of_one_name(tmp_path):
    hook = HOOKS.build(dict(type='MaskWriterHook', out_dir=str(tmp_path)))
    hook.after_test_iter(runner_of(), 0, {}, predicted([[1]], 'x/a'))
    hook.after_test_iter(runner_of(), 1, {}, predicted([[1]], 'x/a'))  # a sampler may repeat one
    with pytest.raises(UserError, match=r'x/a\.jpg and JPEGImages/y/a\.jpg would have the same'):
        hook.after_test_iter(runner_of(), 2, {}, predicted([[2]], 'y/a'))


VOC = PascalVOCDataset.METAINFO


def runner_of(classes=VOC['classes']) -> SimpleNamespace:
    dataset = SimpleNamespace(metainfo=dict(classes=classes, palette=VOC['palette']))
    return SimpleNamespace(test_dataloader=SimpleNamespace(dataset=dataset))


def predicted(labels: list[list[int]], name: str = '2008_000001') -> list[SegDataSample]:
    sample = SegDataSample(metainfo=dict(img_path=f'JPEGImages/{name}.jpg'))
    sample.pred_sem_seg = PixelData(data=torch.tensor([labels]))
    return [sample]


def test_submission_to_the_voc_server(tmp_path):
    hook = HOOKS.build(dict(type='VOCSubmissionHook', out_dir=str(tmp_path)))
    hook.before_test_epoch(runner_of())
    hook.after_test_iter(runner_of(), 0, {}, predicted([[0, 20], [7, 0]]))
    hook.after_test_iter(runner_of(), 1, {}, predicted([[1, 2, 3]], '2008_000002'))
    hook.after_test_epoch(runner_of())
    folder = 'results/VOC2012/Segmentation/comp6_test_cls'
    with Image.open(tmp_path / folder / '2008_000001.png') as image:
        assert image.mode == 'P' and image.getpalette()[60:63] == VOC['palette'][20]
        np.testing.assert_array_equal(np.array(image), [[0, 20], [7, 0]])
    with tarfile.open(tmp_path / 'results.tgz') as tar:
        assert {member.name for member in tar if member.isfile()} == {
            f'{folder}/2008_000001.png', f'{folder}/2008_000002.png'}
    with pytest.raises(UserError, match='comp6_test_cls: expected no masks there'):
        hook.before_test_epoch(runner_of())  # of another model


@pytest.mark.parametrize('label', [21, 255])
def test_the_voc_server_takes_no_other_label(tmp_path, label):
    hook = HOOKS.build(dict(type='VOCSubmissionHook', out_dir=str(tmp_path)))
    with pytest.raises(UserError, match=f'2008_000001: .* labels 0 to 20, but .* holds {label}'):
        hook.after_test_iter(runner_of(), 0, {}, predicted([[0, label]]))
    assert not list(tmp_path.rglob('*.png'))


def test_the_voc_server_takes_no_other_classes(tmp_path):
    hook = HOOKS.build(dict(type='VOCSubmissionHook', out_dir=str(tmp_path)))
    swapped = ('background', 'bicycle', 'aeroplane', *VOC['classes'][3:])
    for classes in (swapped, VOC['classes'][:3]):
        with pytest.raises(UserError, match=f'expects the 21 classes .* has {len(classes)}: back'):
            hook.before_test_epoch(runner_of(classes))


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
