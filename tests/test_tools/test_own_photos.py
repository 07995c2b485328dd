"""The way of docs/en/own_data.md: a folder of photos, a CSV of tags, one copied config."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TAGS = {'a': 'person', 'b': 'person;bicycle', 'c': 'bicycle', 'd': 'bicycle;background'}
SMALL = [
    'model.segmentor.backbone.init_cfg=None', 'model.uss_encoder.model_name=vit_tiny_patch16_224',
    'model.uss_encoder.checkpoint=None',
    'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False', 'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
    'train_cfg.max_iters=3', 'custom_hooks.1.warmup_iters=1',
    'default_hooks.checkpoint.interval=3'
]


@pytest.fixture
def photos(tmp_path) -> Path:
    """Four small photos, one of them taller than wide, and their tags."""
    rng = np.random.default_rng(0)
    folder = tmp_path / 'photos/images'
    folder.mkdir(parents=True)
    for i, name in enumerate(TAGS):
        size = (60, 44, 3) if i == 2 else (44, 60, 3)
        Image.fromarray(rng.integers(0, 255, size, np.uint8)).save(folder / f'{name}.jpg')
    rows = '\n'.join(f'{name},{tags}' for name, tags in TAGS.items())
    (folder.parent / 'labels.csv').write_text(f'id,labels\n{rows}\n')
    return folder.parent


def test_from_a_folder_to_masks(photos, repo_root, run_tool):
    copied = repo_root / 'configs/dhr/own_photos.py'
    options = ['--data-root', photos, '--work-dir', 'run', '--cfg-options', *SMALL]
    assert run_tool('train', copied, *options) == 0
    assert {p.stem for p in Path('run/base_masks').glob('*.png')} == set(TAGS)
    assert run_tool('test', copied, 'run/iter_3.pth', '--crf', '--out', 'masks', *options) == 0
    for name in TAGS:
        mask = np.array(Image.open(f'masks/{name}.png'))
        assert mask.shape == ((60, 44) if name == 'c' else (44, 60))
        assert set(np.unique(mask)) <= {0, 1, 2}


def test_a_broken_photo_is_named(photos, repo_root, run_tool, capfd):
    """Also where there is no validation set to search."""
    (photos / 'images/b.jpg').write_bytes(b'\xff\xd8 no image')
    copied = repo_root / 'configs/dhr/own_photos.py'
    assert run_tool('train', copied, '--data-root', photos, '--work-dir', 'run', '--cfg-options',
                    *SMALL) == 2
    assert 'images/b.jpg' in capfd.readouterr().err
