"""The exported pair runs in plain MMSegmentation and predicts what the training's model does."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.apis import inference_model
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_dhr.utils import UserError

EXPORT = 'model_converters/export_to_mmseg'

# What a user's own script would be, but for the first lines: mmseg cannot be imported where mmcv
# has no compiled operators, so such an environment needs a stand-in for them.
PLAIN_MMSEG = """
import sys, types
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

if find_spec('mmcv._ext') is None:
    class Operators(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith('__'):
                raise AttributeError(name)
            return lambda *args, **kwargs: None
    sys.modules['mmcv._ext'] = Operators('mmcv._ext')
    sys.modules['mmcv._ext'].__spec__ = ModuleSpec('mmcv._ext', None)

import numpy as np
from mmseg.apis import inference_model, init_model

config, weights, image, out = sys.argv[1:]
model = init_model(config, weights, device='cpu')
result = inference_model(model, image)
assert not any(name.split('.')[0] == 'mmseg_dhr' for name in sys.modules)
np.savez(out, logits=result.seg_logits.data.numpy(), mask=result.pred_sem_seg.data.numpy(),
         classes=model.dataset_meta['classes'], palette=model.dataset_meta['palette'])
"""


def predict(config: str, checkpoint: str, image: Path) -> SegDataSample:
    cfg = Config.fromfile(config)
    model = MODELS.build(cfg.model)
    load_checkpoint(model, checkpoint, map_location='cpu', strict=True)
    model.cfg = cfg
    return inference_model(model.eval(), str(image))


@pytest.fixture
def wrapped(write_config, dual_encoder, save_checkpoint) -> tuple[str, str]:
    """Config and checkpoint of a DualEncoderSegmentor."""
    config = write_config(dual_encoder)
    return config, save_checkpoint(config)


def test_plain_mmseg_predicts_the_same(wrapped, run_tool, voc_dir, tmp_path):
    config, checkpoint = wrapped
    image = voc_dir / 'JPEGImages/im0.jpg'
    expected = predict(config, checkpoint, image)
    assert len(expected.pred_sem_seg.data.unique()) > 1
    assert run_tool(EXPORT, config, checkpoint, 'out') == 0
    script = tmp_path / 'script.py'
    script.write_text(PLAIN_MMSEG)
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    done = subprocess.run(
        [sys.executable, str(script), 'out/tiny.py', 'out/tiny.pth', str(image), 'result.npz'],
        cwd=tmp_path, env={**environment, 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True,
        check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    result = np.load(tmp_path / 'result.npz')
    assert torch.equal(torch.from_numpy(result['logits']), expected.seg_logits.data)
    assert torch.equal(torch.from_numpy(result['mask']), expected.pred_sem_seg.data)
    assert result['classes'].tolist() == ['background', 'cat', 'dog']
    assert result['palette'].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]


def test_exported_pair_holds_the_segmentor_alone(wrapped, run_tool):
    assert run_tool(EXPORT, *wrapped, 'out') == 0
    text = Path('out/tiny.py').read_text()
    for foreign in ('mmseg_dhr', 'DualEncoder', 'PackTagged', 'PseudoLabelMetric', 'CRFTTA',
                    'no/such/file', 'custom_imports'):
        assert foreign not in text
    cfg = Config.fromfile('out/tiny.py')
    assert cfg.model.data_preprocessor.pad_val == 7  # the wrapper's override
    assert cfg.model.auxiliary_head.in_index == 2
    assert [t.type for t in cfg.test_pipeline] == [
        'LoadImageFromFile', 'Resize', 'LoadAnnotations', 'PackSegInputs']
    assert cfg.test_evaluator == [dict(type='IoUMetric', iou_metrics=['mIoU'])]
    checkpoint = torch.load('out/tiny.pth', weights_only=True)
    assert set(checkpoint) == {'state_dict', 'meta'}
    assert set(checkpoint['meta']['dataset_meta']) == {'classes', 'palette'}
    trained = torch.load(wrapped[1])['state_dict']
    assert {'segmentor.' + key for key in checkpoint['state_dict']} == {
        key for key in trained if key.startswith('segmentor.')}


def test_a_plain_segmentor_exports_too(write_config, save_checkpoint, run_tool, voc_dir):
    config = write_config()
    checkpoint = save_checkpoint(config)
    image = voc_dir / 'JPEGImages/im0.jpg'
    expected = predict(config, checkpoint, image)
    assert run_tool(EXPORT, config, checkpoint, 'out') == 0
    result = predict('out/tiny.py', 'out/tiny.pth', image)
    assert torch.equal(result.seg_logits.data, expected.seg_logits.data)


def test_the_exported_config_tests_on_the_data_set(wrapped, run_tool, voc_dir, capfd):
    config, checkpoint = wrapped
    assert run_tool('test', config, checkpoint, '--data-root', voc_dir, '--out', 'a') == 0
    assert run_tool(EXPORT, config, checkpoint, 'out', '--data-root', voc_dir) == 0
    assert run_tool('test', 'out/tiny.py', 'out/tiny.pth', '--out', 'b') == 0
    for name in ('im2.png', 'im3.png'):
        assert Path('a', name).read_bytes() == Path('b', name).read_bytes()


def test_data_sets_become_stock_types(load_tool):
    init_default_scope('mmseg')
    tool = load_tool(EXPORT)
    meta = dict(classes=['a'], palette=[[0, 0, 0]])
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadPseudoMask', mask_dir='m'),
                dict(type='TrackGeometry', transforms=[dict(type='Resize', scale=(1, 1))]),
                dict(type='PackTaggedInputs')]
    stock = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(1, 1)),
             dict(type='PackSegInputs')]
    leaf = dict(type='PascalVOCDataset', ann_file='x.txt', pipeline=pipeline)
    plain = dict(leaf, pipeline=stock)
    tagged = dict(type='TaggedDataset', labels=dict(), dataset=leaf)
    assert tool.plain_dataset(tagged, meta) == plain
    assert tool.plain_dataset(dict(type='ConcatDataset', datasets=[leaf, leaf]), meta) == dict(
        type='ConcatDataset', datasets=[plain, plain])
    drawn = tool.plain_dataset(dict(type='ScenesDataset', data_root='s', pipeline=pipeline), meta)
    assert drawn == dict(
        type='BaseSegDataset', metainfo=meta, ann_file='s/ImageSets/Segmentation/train.txt',
        data_prefix=dict(img_path='s/JPEGImages', seg_map_path='s/SegmentationClass'),
        img_suffix='.png', seg_map_suffix='.png', reduce_zero_label=False, pipeline=stock)
    assert not Path('s').exists()  # nothing was drawn


def test_timm_backbones_download_nothing(load_tool):
    init_default_scope('mmseg')
    model = load_tool(EXPORT).plain_model(dict(
        type='EncoderDecoder', pretrained='x.pth',
        backbone=dict(type='TIMMBackbone', init_cfg=dict(type='EfficientNetLiteInit'))))
    assert model == dict(type='EncoderDecoder', pretrained=None,
                         backbone=dict(type='TIMMBackbone', pretrained=False))


def test_parts_that_only_exist_here_are_refused(load_tool):
    init_default_scope('mmseg')
    with pytest.raises(UserError, match='Cannot export CAMHead'):
        load_tool(EXPORT).plain_model(dict(type='EncoderDecoder', neck=[dict(type='CAMHead')]))


def test_wrong_checkpoint_is_told_in_one_line(wrapped, write_config, save_checkpoint, run_tool,
                                              capfd):
    plain = save_checkpoint(write_config())
    config = write_config('dict(type="DualEncoderSegmentor", segmentor=segmentor)')
    assert run_tool(EXPORT, config, plain, 'out') == 2
    assert 'the checkpoint is of another model' in capfd.readouterr().err
    assert not Path('out').exists()


@pytest.mark.parametrize('out', ['.', 'work_dirs/tiny'])
def test_a_training_is_not_written_over(wrapped, run_tool, capfd, out):
    """The config itself; the copy of it in the work directory."""
    Path('work_dirs/tiny').mkdir(parents=True)
    before = [Path(path).read_bytes() for path in wrapped]
    assert run_tool(EXPORT, *wrapped, out) == 2
    assert 'it is read here, and would be written over' in capfd.readouterr().err
    assert [Path(path).read_bytes() for path in wrapped] == before


def test_photos_without_masks_have_no_metric(load_tool):
    data = dict(type='ImageLabelDataset', data_root='photos', pipeline=[],
                metainfo=dict(classes=['a', 'b'], palette=[[0, 0, 0], [1, 1, 1]]))
    cfg = Config(dict(model=dict(type='EncoderDecoder'), test_evaluator=[],
                      test_dataloader=dict(dataset=data)))
    plain = load_tool(EXPORT).plain_config(cfg, data['metainfo'])
    assert plain.test_evaluator == []
