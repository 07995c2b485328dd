"""tools/train.py and tools/test.py on four images: what they write and what they say."""
from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmseg_dhr.utils import UserError


@pytest.fixture
def trained(write_config, save_checkpoint) -> tuple[str, str]:
    """Config and checkpoint."""
    config = write_config()
    return config, save_checkpoint(config)


def test_train_then_test(run_tool, write_config, voc_dir, capfd):
    config, checkpoint = write_config(), 'run/iter_2.pth'
    assert run_tool('train', config, '--work-dir', 'run', '--data-root', voc_dir,
                    '--cfg-options', 'model.backbone.init_cfg=None') == 0
    assert torch.load(checkpoint)['meta']['dataset_meta']['classes'][1] == 'cat'
    capfd.readouterr()
    assert run_tool('test', config, checkpoint, '--data-root', voc_dir, '--out', 'masks') == 0
    output = ''.join(capfd.readouterr())
    assert '| background |' in output and 'pseudo_label/mIoU_multi' in output
    for name in ('im2', 'im3'):
        mask = Image.open(f'masks/{name}.png')
        assert mask.mode == 'P' and mask.size == (56, 40)
        assert mask.getpalette()[3:6] == [128, 0, 0]
        assert set(np.unique(mask)) <= {0, 1, 2}


@pytest.mark.parametrize(('flags', 'crf_runs'), [
    (['--tta'], 0), (['--crf'], 2), (['--tta', '--no-crf'], 0),
])
def test_tta_and_crf(trained, run_tool, voc_dir, monkeypatch, flags, crf_runs):
    calls = []
    monkeypatch.setattr('mmseg_dhr.models.DenseCRF.__call__',
                        lambda self, images, scores, *_: calls.append(images.shape) or scores)
    # Random logits spread evenly: no class may be dropped, or there is nothing to refine.
    code = run_tool('test', *trained, '--data-root', voc_dir, *flags, '--out', 'masks',
                    '--cfg-options', 'tta_model.min_score=0.0')
    assert code == 0
    assert calls == [(1, 3, 40, 56)] * crf_runs
    assert sorted(os.listdir('masks')) == ['im2.png', 'im3.png', 'manifest.json']


def test_mmsegs_own_command_with_a_crf(trained, run_tool, voc_dir, repo_root):
    tool = Path(mmseg.__file__).parent / '.mim/tools/test.py'
    if not tool.is_file():
        pytest.skip(f'this installation of MMSegmentation lacks {tool}')
    config, checkpoint = trained
    Path('crf.py').write_text(f"""
_base_ = [{config!r}]
custom_imports = dict(imports=['mmseg_dhr'])
model = dict(_delete_=True, type='CRFPostProcess', segmentor=_base_.model, min_score=0.0)
test_evaluator = dict(_delete_=True, type='IoUMetric', iou_metrics=['mIoU'])
""")
    assert run_tool('test', 'crf.py', checkpoint, '--data-root', voc_dir, '--out', 'ours') == 0
    environment = {**os.environ, 'PYTHONPATH': str(repo_root), 'MMSEG_DHR_DATA': str(voc_dir)}
    done = subprocess.run([sys.executable, tool, 'crf.py', checkpoint, '--out', 'theirs'],
                          env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ('im2', 'im3'):
        np.testing.assert_array_equal(Image.open(f'ours/{name}.png'),
                                      Image.open(f'theirs/{name}.png'))


def test_enable_tta(load_tool):
    tool = load_tool('test')

    def enabled(crf, **settings):
        tested = dict(dataset=dict(type='W', dataset=dict(type='D')))
        cfg = Config(copy.deepcopy(dict(dict(model=dict(type='M'), tta_pipeline=[1],
                                             test_dataloader=tested), **settings)))
        tool.enable_tta(cfg, crf)
        assert cfg.test_dataloader.dataset.dataset.pipeline == [1]
        return cfg.model.to_dict()

    module = dict(type='M')
    stock = dict(type='SegTTAModel')
    ours = dict(type='CRFTTAModel', crf=dict(iterations=3))
    assert enabled(None) == dict(type='CRFTTAModel', module=module)
    assert enabled(None, tta_model=stock) == dict(type='SegTTAModel', module=module)
    assert enabled(True, tta_model=stock) == dict(type='CRFTTAModel', crf={}, module=module)
    assert enabled(True, tta_model=ours) == dict(ours, module=module)
    assert enabled(False, tta_model=ours) == dict(type='CRFTTAModel', module=module)
    wrapped = dict(type='CRFPostProcess', segmentor=module, crf=dict(iterations=2), min_score=0.1)
    once = dict(type='CRFTTAModel', crf=dict(iterations=2), min_score=0.1, module=module)
    assert enabled(None, model=wrapped, tta_model=stock) == once
    assert enabled(True, model=wrapped, tta_model=ours) == once
    assert 'crf' not in enabled(False, model=wrapped)
    assert enabled(None, model=dict(type='CRFPostProcess', segmentor=module, crf=None,
                                    data_preprocessor=dict(type='P'))) == dict(
        type='CRFTTAModel', crf={}, module=dict(module, data_preprocessor=dict(type='P')))
    with pytest.raises(UserError, match='tta_pipeline'):
        tool.enable_tta(Config(dict(model=module)), None)


def test_resume_goes_on_where_this_training_stopped(trained, run_tool, voc_dir, capfd):
    """Not where that of `load_from` ended; and where there was none, it starts."""
    config, weights = trained
    for iters in (1, 2):
        assert run_tool('train', config, '--work-dir', 'run', '--data-root', voc_dir, '--resume',
                        '--cfg-options', 'model.backbone.init_cfg=None', f'load_from={weights}',
                        f'train_cfg.max_iters={iters}',
                        'default_hooks.checkpoint.interval=1') == 0
        said = ''.join(capfd.readouterr())
        assert ('resumed epoch: 0, iter: 1' in said) == (iters == 2)
        assert (f'Load checkpoint from {weights}' in said) == (iters == 1)
    assert torch.load('run/iter_2.pth')['meta']['iter'] == 2


def test_enable_amp(load_tool):
    from mmengine.config import Config
    tool = load_tool('train')
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD'))))
    for _ in range(2):
        tool.enable_amp(cfg)
        assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
        assert cfg.optim_wrapper.loss_scale == 'dynamic'
    with pytest.raises(UserError, match='but the config has Own'):
        tool.enable_amp(Config(dict(optim_wrapper=dict(type='Own'))))


def test_two_processes_on_a_cpu(write_config, voc_dir, repo_root, tmp_path):
    """SyncBN, NCCL and device ids of the config must not get in the way."""
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
               str(repo_root / 'tools/train.py'), write_config(), '--launcher', 'pytorch',
               '--data-root', str(voc_dir), '--work-dir', 'run',
               '--cfg-options', 'model.backbone.init_cfg=None']
    environment = {**os.environ, 'PYTHONPATH': str(repo_root), 'CUDA_VISIBLE_DEVICES': '',
                   'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True,
                          check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    state = torch.load(tmp_path / 'run/iter_2.pth')['state_dict']
    assert all(value.isfinite().all() for value in state.values())


def break_image(voc_dir):
    (voc_dir / 'JPEGImages/im3.jpg').write_bytes(b'\xff\xd8 no image')


def break_mask(voc_dir):
    file = voc_dir / 'SegmentationClassAug/im3.png'
    file.write_bytes(file.read_bytes()[:60])


def empty_image(voc_dir):
    (voc_dir / 'JPEGImages/im3.jpg').write_bytes(b'')


def remove_list(voc_dir):
    (voc_dir / 'ImageSets/val.txt').unlink()


def remove_image(voc_dir):
    (voc_dir / 'JPEGImages/im3.jpg').unlink()


@pytest.mark.parametrize(('damage', 'message', 'workers'), [
    (break_image, 'JPEGImages/im3.jpg: expected a whole image file', 0),
    (empty_image, 'JPEGImages/im3.jpg: expected a whole image file', 0),
    (break_mask, 'SegmentationClassAug/im3.png: expected a whole image file', 1),
    (remove_list, 'val.txt: not found (`test_dataloader.dataset.ann_file`)', 0),
    (remove_image, 'JPEGImages/im3.jpg', 0),
])
def test_damaged_data_is_named_in_one_line(trained, run_tool, voc_dir, capfd, damage, message,
                                           workers):
    damage(voc_dir)
    capfd.readouterr()
    code = run_tool('test', *trained, '--data-root', voc_dir, '--cfg-options',
                    f'test_dataloader.num_workers={workers}')
    text = capfd.readouterr().err
    error = [line for line in text.split('\n') if line.startswith('error: ')]
    assert code == 2 and 'Traceback' not in text
    assert len(error) == 1 and message in error[0]


@pytest.mark.parametrize(('options', 'message'), [
    (['model.decode_head.num_classes=5'], 'for another number of classes: decode_head.conv_seg'),
    (['model.backbone.depth=34'], 'the checkpoint is of another model'),
    (['test_dataloader.dataset.type=VOC'], 'VOC is not in the mmseg::dataset registry.'),
])
def test_wrong_config_is_told_in_one_line(trained, run_tool, voc_dir, capfd, options, message):
    code = run_tool('test', *trained, '--data-root', voc_dir, '--cfg-options', *options)
    assert code == 2
    assert message in capfd.readouterr().err.strip().split('\n')[-1]


def test_missing_things_are_told_in_one_line(run_tool, write_config, voc_dir, capfd):
    for arguments, message in [
        (['test', 'absent.py', 'x.pth'], 'error: absent.py: no such config file.'),
        (['test', write_config(), 'x.pth'], 'error: data/nowhere: no such data folder'),
        (['train', write_config(), '--data-root', 'elsewhere'], 'error: elsewhere: no such data'),
        (['test', write_config(), 'x.pth', '--data-root', voc_dir], 'error: x.pth: no such check'),
    ]:
        assert run_tool(*arguments) == 2
        assert capfd.readouterr().err.strip().split('\n')[-1].startswith(message)


def test_debug_keeps_the_traceback(run_tool, write_config):
    with pytest.raises(UserError):
        run_tool('test', write_config(), 'x.pth', '--debug')


def test_other_classes_are_named(load_tool, monkeypatch):
    tool, lines = load_tool('test'), []
    monkeypatch.setattr(tool, 'print_log', lambda line, **_: lines.append(line))
    for trained, tested in ((['a', 'b'], ['a', 'b']), (('a', 'b'), ['a', 'b']), (None, ['a'])):
        tool.compare_classes(trained, tested)
    assert not lines
    tool.compare_classes(['a', 'b'], ['b', 'velo'])
    assert 'trained on the classes a, b, but the test has b, velo' in lines[0]


def test_a_folder_of_photos_is_not_written_into(trained, run_tool, voc_dir, capfd):
    photos = voc_dir / 'JPEGImages'
    for option in ('--out', '--show-dir', '--format-voc'):
        assert run_tool('test', *trained, '--data-root', voc_dir, '--images', photos,
                        option, photos / 'masks') == 2
        assert 'would be taken for photos' in capfd.readouterr().err
    assert not (photos / 'masks').exists()


def test_a_config_is_not_replaced_by_its_copy(trained, run_tool, voc_dir, capfd):
    mine = Path('mine.py')
    mine.write_text(f'_base_ = [{trained[0]!r}]\n')
    assert run_tool('train', mine, '--data-root', voc_dir, '--work-dir', '.') == 2
    assert 'itself, which a run would replace' in capfd.readouterr().err
    assert mine.read_text().startswith('_base_')
    Path('run').mkdir()
    copy = Path('run/copy.py')
    Config.fromfile(trained[0]).dump(copy)
    assert run_tool('test', copy, trained[1], '--data-root', voc_dir, '--work-dir', 'run') == 0


def test_tags_of_voc_without_compiled_operators(repo_root):
    """In a process of its own: here mmcv is prepared already."""
    done = subprocess.run([sys.executable, 'tools/dataset_converters/voc_xml_tags.py', 'absent'],
                          cwd=repo_root, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2 and 'absent/ImageSets' in done.stderr
