"""The configs of other models: train, test and export, each with its depth or width cut down."""
from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.models.decode_heads import Mask2FormerHead
from mmseg.registry import MODELS

from mmseg_dhr.formats import read_mask, write_mask
from mmseg_dhr.models import DHRPropagation
from mmseg_dhr.utils import load_config
from tests.data_sets import DATA_SETS, RANDOM_VIT, SMALL_DATA, draw, short_run

BACKBONE, HEAD = 'model.segmentor.backbone', 'model.segmentor.decode_head'
NO_WEIGHTS = f'{BACKBONE}.init_cfg=None'
PIXELS, QUERIES = f'{HEAD}.pixel_decoder', f'{HEAD}.transformer_decoder'
SMALL_MASK2FORMER = [
    NO_WEIGHTS, f'{BACKBONE}.embed_dims=8', f'{BACKBONE}.num_heads=(1,2,4,8)',
    f'{BACKBONE}.depths=(1,1,1,1)', f'{BACKBONE}.window_size=4',
    f'{HEAD}.in_channels=(8,16,32,64)', f'{HEAD}.feat_channels=32', f'{HEAD}.out_channels=32',
    f'{HEAD}.num_queries=10', f'{HEAD}.positional_encoding.num_feats=16',
    f'{HEAD}.train_cfg.num_points=64', f'{PIXELS}.positional_encoding.num_feats=16',
    f'{PIXELS}.norm_cfg.num_groups=8', f'{PIXELS}.encoder.num_layers=1',
    f'{PIXELS}.encoder.layer_cfg.self_attn_cfg.embed_dims=32',
    f'{PIXELS}.encoder.layer_cfg.ffn_cfg.embed_dims=32',
    f'{PIXELS}.encoder.layer_cfg.ffn_cfg.feedforward_channels=32', f'{QUERIES}.num_layers=2',
    f'{QUERIES}.layer_cfg.self_attn_cfg.embed_dims=32',
    f'{QUERIES}.layer_cfg.cross_attn_cfg.embed_dims=32',
    f'{QUERIES}.layer_cfg.ffn_cfg.embed_dims=32',
    f'{QUERIES}.layer_cfg.ffn_cfg.feedforward_channels=32', 'model.cam_head.in_channels=64'
]
SMALL_MODELS = dict(
    voc_r50_deeplabv2=[
        NO_WEIGHTS, f'{BACKBONE}.base_channels=8', f'{BACKBONE}.stem_channels=8',
        f'{HEAD}.in_channels=256', 'model.cam_head.in_channels=256'],
    voc_wr38_deeplabv1=[
        NO_WEIGHTS, f'{BACKBONE}.base_channels=4', f'{HEAD}.in_channels=256', f'{HEAD}.channels=8',
        'model.cam_head.in_channels=256'],
    voc_segformer_b2=[
        NO_WEIGHTS, f'{BACKBONE}.embed_dims=8', f'{BACKBONE}.num_layers=(1,1,1,1)',
        f'{HEAD}.in_channels=(8,16,40,64)', f'{HEAD}.channels=16', 'model.cam_head.in_channels=64'],
    voc_vit_b16=[
        NO_WEIGHTS, f'{BACKBONE}.embed_dims=24', f'{BACKBONE}.num_layers=2',
        f'{BACKBONE}.num_heads=2', f'{BACKBONE}.out_indices=(0,1)', f'{HEAD}.in_channels=24',
        f'{HEAD}.channels=24', f'{HEAD}.embed_dims=24', f'{HEAD}.num_heads=2',
        'model.cam_head.in_channels=24'],
    **{f'{name}_swinl_mask2former': SMALL_MASK2FORMER for name in DATA_SETS})
# Modules that MMSegmentation does not have.
OURS = dict(voc_r50_deeplabv2='DeepLabV2Head', voc_wr38_deeplabv1='WideResNet38')


@pytest.fixture
def propagated(monkeypatch) -> list:
    """Masks of every batch that DHR propagates."""
    masks = []
    run = DHRPropagation.__call__

    def record(self, batch, stages=False):
        result = run(self, batch, stages)
        masks.append(result.final)
        return result

    monkeypatch.setattr(DHRPropagation, '__call__', record)
    return masks


def logits_of(config: str | Path, options: dict, checkpoint: str | Path) -> torch.Tensor:
    """What a trained model predicts of a fixed input."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    model = MODELS.build(cfg.model)
    load_checkpoint(model, str(checkpoint), map_location='cpu', strict=True)
    inputs = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    return model.eval().predict(inputs)[0].seg_logits.data


@pytest.mark.parametrize('name', SMALL_MODELS)
def test_train_test_and_export(name, repo_root, run_tool, tmp_path, propagated, capfd):
    drawn = draw(name.split('_')[0], tmp_path / 'data')
    config = repo_root / f'configs/dhr/{name}.py'
    options = ['--data-root', drawn.root, '--work-dir', 'run', '--cfg-options', *SMALL_DATA,
               *SMALL_MODELS[name]]
    assert run_tool('train', config, *options, *RANDOM_VIT, *short_run(3, warmup=1)) == 0
    assert len(propagated) == 2  # online, after the warm-up
    state = torch.load('run/iter_3.pth')['state_dict']
    assert all(value.isfinite().all() for value in state.values())
    refined = ['--tta', '--crf'] if name == 'voc_swinl_mask2former' else []
    assert run_tool('test', config, 'run/iter_3.pth', '--out', 'predicted', *refined, *options) == 0
    for image_id in drawn.shown('val'):
        assert read_mask(f'predicted/{image_id}.png').shape == drawn.masks[image_id].shape
    if 'swinl' in name:  # each benchmark has one
        assert run_tool('make_pseudo_labels', config, 'run/iter_3.pth', 'pseudo', *options,
                        *RANDOM_VIT) == 0
        for image_id in drawn.shown('train'):
            assert read_mask(f'pseudo/{image_id}.png').shape == drawn.masks[image_id].shape
    capfd.readouterr()
    code = run_tool('model_converters/export_to_mmseg', config, 'run/iter_3.pth', 'out', *options)
    if name in OURS:
        assert code == 2 and f'Cannot export {OURS[name]}' in capfd.readouterr().err
        return
    assert code == 0
    trained = logits_of(config, shrunk(name, drawn.root), 'run/iter_3.pth')
    assert trained.isfinite().all() and trained.std() > 0
    assert torch.equal(logits_of(f'out/{name}.py', {}, f'out/{name}.pth'), trained)


def shrunk(name: str, root: Path) -> dict:
    """``SMALL_MODELS`` and no USS encoder, as ``merge_from_dict`` takes them."""
    pairs = (option.split('=', 1) for option in [*SMALL_DATA, *SMALL_MODELS[name]])
    values = {key: DictAction._parse_iterable(value) for key, value in pairs}
    return {**values, 'model.uss_encoder': None, 'data_root': str(root)}


def test_mask2former_on_finished_masks(repo_root, run_tool, tmp_path, propagated, monkeypatch,
                                       capfd):
    drawn = draw('voc', tmp_path / 'data')
    for image_id in drawn.train:
        write_mask(f'masks/{image_id}.png', drawn.masks[image_id], np.zeros((21, 3), int))
    monkeypatch.setenv('MMSEG_DHR_BASE', str(tmp_path / 'masks'))
    supervised = []
    targets = Mask2FormerHead._seg_data_to_instance_data

    def record(self, samples):
        supervised.extend((s.metainfo['img_path'], s.gt_sem_seg.data) for s in samples)
        return targets(self, samples)

    monkeypatch.setattr(Mask2FormerHead, '_seg_data_to_instance_data', record)
    config = repo_root / 'configs/dhr/voc_swinl_mask2former.py'
    comment = ' '.join(line[1:].strip(' \\') for line in config.read_text().split('\n')
                       if line.startswith('#'))
    documented = re.search(r'--cfg-options ((?:\S+=\S+ ?)+)', comment).group(1).split()
    assert run_tool('train', config, '--data-root', drawn.root, '--work-dir', 'run',
                    '--cfg-options', *SMALL_DATA, *SMALL_MASK2FORMER, *short_run(3, warmup=0),
                    *documented) == 0
    assert not propagated and len(supervised) == 3 * 2
    for path, mask in supervised:
        assert set(mask.unique().tolist()) <= {255, *np.unique(drawn.masks[Path(path).stem])}
        assert mask.shape == (1, 48, 48) and (mask != 255).any()
    said = ''.join(capfd.readouterr())
    assert 'decode.loss_mask' in said and ' loss_cls: 0.0000' in said


@torch.no_grad()
def test_the_example_of_the_docs(repo_root, tmp_path):
    """docs/en/models.md: any other model."""
    text = (repo_root / 'docs/en/models.md').read_text()
    example = re.search(r'## Another model.*?```python\n(.*?)```', text, re.DOTALL).group(1)
    file = tmp_path / 'mine.py'
    file.write_text(example.replace("'./", f"'{repo_root}/configs/dhr/"))
    cfg = load_config(file)
    cfg.merge_from_dict(dict(
        model=dict(uss_encoder=None, segmentor=dict(pretrained=None))))
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model).eval()
    images = torch.zeros(1, 3, 64, 96)
    assert model.encode_decode(images, [dict(img_shape=(64, 96))]).shape == (1, 21, 64, 96)
    assert model.cam_maps(images).shape == (1, 20, 2, 3)
    assert tuple(model.data_preprocessor.size) == cfg.crop_size
