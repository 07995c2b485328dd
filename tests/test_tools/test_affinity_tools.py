"""From CAMs to masks by the commands of PSA and IRNet, on three tiny photographs."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmseg.datasets import PascalVOCDataset
from PIL import Image

from mmseg_dhr.formats import Manifest, read_cam, read_mask, write_cam

SEEDS = Path(__file__).resolve().parents[2] / 'configs/seeds'
IDS = ('a', 'b', 'c')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cat on the left and a sofa on the right of each image, and CAMs that see them."""
    root = tmp_path / 'voc'
    (root / 'JPEGImages').mkdir(parents=True)
    (root / 'ImageSets/Segmentation').mkdir(parents=True)
    labels = sorted(PascalVOCDataset.METAINFO['classes'].index(name) for name in ('cat', 'sofa'))
    rng = np.random.default_rng(0)
    for name in IDS:
        image = rng.integers(0, 60, (64, 96, 3)).astype(np.uint8)
        image[10:50, 8:40, 0] += 150
        image[10:50, 56:90, 1] += 150
        Image.fromarray(image).save(root / 'JPEGImages' / f'{name}.jpg')
        maps = np.zeros((2, 16, 24), np.float32)
        maps[0, 4:11, 3:9], maps[1, 4:11, 15:21] = 0.9, 0.8
        write_cam(tmp_path / 'cams' / f'{name}.npz', np.array(labels), maps)
    (root / 'image_labels.json').write_text(json.dumps({name: ['cat', 'sofa'] for name in IDS}))
    (root / 'ImageSets/Segmentation/train.txt').write_text('\n'.join(IDS))
    return root


@pytest.mark.parametrize('method', ['psa', 'irnet'])
def test_from_cams_to_masks(run_tool, root: Path, method: str, capfd) -> None:
    config = SEEDS / f'{method}_vocmini.py'
    common = ['--work-dir', 'run', '--data-root', str(root)]
    assert run_tool('make_affinity_labels', config, 'run/labels', '--cams', root.parent / 'cams',
                    *common) == 0
    learnt = read_mask('run/labels/a.png')
    assert {0, 8, 18} <= set(np.unique(learnt).tolist()) <= {0, 8, 18, 255}
    assert run_tool('train', config, *common, '--cfg-options', 'model.backbone.init_cfg=None',
                    'model.data_preprocessor.size=(64,64)', 'train_dataloader.batch_size=2',
                    'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
                    'train_dataloader.dataset.dataset.pipeline.2.scale=(96,96)',
                    'train_dataloader.dataset.dataset.pipeline.3.crop_size=(64,64)',
                    'train_cfg.max_iters=3', 'param_scheduler.0.end=3',
                    'default_hooks.logger.interval=1') == 0
    assert 'loss_affinity' in capfd.readouterr().out
    state = torch.load('run/iter_3.pth', weights_only=False)['state_dict']
    assert any(name.startswith('affinity_head.taps.0') for name in state)
    make = ['make_affinity_masks', config, 'run/iter_3.pth']
    cams = ['--cams', root.parent / 'cams', *common]
    assert run_tool(*make, 'masks', '--batch-size', '2', *cams) == 0
    assert run_tool(*make, 'walked', '--maps', *cams) == 0
    for name in IDS:
        mask = Image.open(f'masks/{name}.png')
        assert mask.mode == 'P' and mask.size == (96, 64)
        assert set(np.unique(mask).tolist()) <= {0, 8, 18}
        assert read_cam(f'walked/{name}.npz').labels.tolist() == [8, 18]
    assert Manifest.load('masks').settings['beta'] == (8 if method == 'psa' else 10)
    # Other settings are refused, in one line.
    assert run_tool(*make, 'masks', '--crf', *cams) == 2
    assert 'crf was None' in capfd.readouterr().err.split('error: ')[-1]


def test_a_config_without_walk(run_tool, root: Path, capfd) -> None:
    assert run_tool('make_affinity_masks', SEEDS / 'cam_vocmini.py', 'x.pth', 'out', '--cams',
                    root.parent / 'cams', '--data-root', str(root)) == 2
    assert '`walk = dict(...)`' in capfd.readouterr().err
