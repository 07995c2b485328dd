"""Photos as own_data.md does not draw them: broken, in one folder per class, misspelt."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_dhr.utils import load_config

SHORT = """_base_ = ['{base}']
from mmseg_dhr.datasets import use_photos

use_photos(_base_, data_root='photos', images='{images}', labels={labels})
train_cfg = dict(max_iters=3)
model = dict(segmentor=dict(backbone=dict(init_cfg=None)))
_base_.custom_hooks[1].update(warmup_iters=1)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
"""


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three photos in one folder per class, one of them in two."""
    rng = np.random.default_rng(0)
    for name in ('cat/a.jpg', 'cat/b.JPG', 'dog/c.png'):
        path = tmp_path / 'photos' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (44, 60, 3), np.uint8)).save(path)
    (tmp_path / 'photos/dog/b.JPG').write_bytes((tmp_path / 'photos/cat/b.JPG').read_bytes())
    return tmp_path / 'photos'


@pytest.fixture
def write(photos, repo_root, tmp_path):
    def write(images: str = '', labels: str = "'.'") -> Path:
        base = repo_root / 'configs/dhr/own_photos.py'
        (tmp_path / 'mine.py').write_text(SHORT.format(base=base, images=images, labels=labels))
        return tmp_path / 'mine.py'
    return write


def test_one_folder_per_class(write, capfd):
    init_default_scope('mmseg')
    config = load_config(write())
    assert 'Classes, with their photos: cat 2, dog 2' in ''.join(capfd.readouterr())
    data = DATASETS.build(config.train_dataloader.dataset)
    assert {name: data.image_labels(i) for i, name in enumerate(data.image_ids)} == dict(
        a=(1, ), b=(1, 2), c=(2, ))
    assert len(DATASETS.build(config.test_dataloader.dataset)) == 3


def test_a_broken_photo_is_named(write, photos, run_tool, capfd):
    """Also where there is no validation set to search."""
    (photos / 'cat/a.jpg').write_bytes(b'\xff\xd8 no image')
    assert run_tool('train', write(), '--work-dir', 'run') == 2
    assert 'photos/cat/a.jpg' in capfd.readouterr().err


def test_a_misspelt_class_is_named(write, run_tool, capfd):
    assert run_tool('train', write(labels="'.', classes=['cat', 'dogs']"), '--work-dir', 'run') == 2
    assert "Did you mean 'dogs'?" in capfd.readouterr().err
