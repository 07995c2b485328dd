"""From a folder of photos without labels to USS features, through the commands."""
from __future__ import annotations

import numpy as np
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmseg_dhr.apis import extract_uss_features

CONFIG = """
_base_ = ['{base}']
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(num_neighbours=3, grid=4,
                 dataset=dict(data_prefix=dict(img_path='JPEGImages'))))
model = dict(encoder=dict(model_name='test_vit', checkpoint='vit.pth'), dim=8, num_clusters=5)
train_cfg = dict(max_iters=2)
"""


def test_train_on_photos_and_use(run_tool, repo_root, scenes_root, tmp_path, capfd):
    init_default_scope('mmseg')
    vit = dict(type='ViTUSS', model_name='test_vit')
    torch.save(MODELS.build(vit).vit.state_dict(), 'vit.pth')
    (tmp_path / 'mine.py').write_text(
        CONFIG.format(base=repo_root / 'configs/uss/stego_own_photos.py'))
    assert run_tool('train', 'mine.py', '--data-root', scenes_root, '--work-dir', 'run') == 0
    assert np.load('run/neighbours/neighbours.npy').shape == (8, 3)  # every photo of the folder
    assert len(list((tmp_path / 'run/uss_features').glob('*.safetensors'))) == 8

    uss = MODELS.build(dict(type='STEGO', backbone=dict(vit, checkpoint='vit.pth'),
                            checkpoint='run/iter_2.pth'))
    assert extract_uss_features(uss, np.zeros((64, 80, 3), np.uint8)).shape == (8, 4, 5)


def test_too_few_photos_is_one_line(run_tool, repo_root, scenes_root, tmp_path, capfd):
    init_default_scope('mmseg')
    torch.save(MODELS.build(dict(type='ViTUSS', model_name='test_vit')).vit.state_dict(), 'vit.pth')
    (tmp_path / 'mine.py').write_text(
        CONFIG.format(base=repo_root / 'configs/uss/stego_own_photos.py'))
    assert run_tool('train', 'mine.py', '--data-root', scenes_root, '--cfg-options',
                    'train_dataloader.dataset.num_neighbours=8') == 2
    assert 'at least 9 images, but the data set has 8' in capfd.readouterr().err
