from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmseg.registry import DATASETS, MODELS
from PIL import Image
from torch import nn

from mmseg_dhr.formats import write_mask

LOAD = dict(type='LoadImageFromFile')
PACK = dict(type='PackTaggedInputs')


@pytest.fixture
def build_model(tiny_model, mmseg_modules) -> Callable[..., Any]:
    """Builds a tiny model in eval mode, whose CAMs and features tell images apart."""

    def build(seed: int = 0, **options: Any) -> Any:
        torch.manual_seed(seed)
        model = MODELS.build(tiny_model(**options)).train()
        model.cam_head.classifier.weight.data.normal_()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # statistics of what it sees: nothing is constant
        model(torch.randn(4, 3, 64, 64), mode='tensor')
        return model.eval()

    return build


@pytest.fixture
def model(build_model) -> Any:
    """A tiny model for the scenes."""
    return build_model()


@pytest.fixture
def scenes(tagged_scenes, mmseg_modules) -> Any:
    """The six training scenes as they are."""
    return DATASETS.build(tagged_scenes([LOAD, PACK]))


@pytest.fixture
def scenes_with_base(tagged_scenes, scenes_root, mmseg_modules) -> Callable[[Path], Any]:
    """Builds the training scenes with the masks of a folder as M_base."""

    def build(folder: Path = scenes_root / 'SegmentationClass') -> Any:
        load = dict(type='LoadPseudoMask', mask_dir=str(folder), num_classes=9)
        return DATASETS.build(tagged_scenes([LOAD, load, PACK]))

    return build


@pytest.fixture
def photos(tmp_path, mmseg_modules) -> Any:
    """Three images of odd sizes; a has an M_base, c has no tag."""
    root, rng = tmp_path / 'photos', np.random.default_rng(0)
    (root / 'images').mkdir(parents=True)
    for name, size in dict(a=(41, 37), b=(30, 64), c=(33, 50)).items():
        image = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((16, 16, 1)))[:size[0], :size[1]]
        Image.fromarray(image.astype(np.uint8)).save(root / 'images' / f'{name}.png')
    write_mask(root / 'masks' / 'a.png', rng.integers(0, 2, (41, 37)), [[0, 0, 0], [9, 9, 9]])
    (root / 'labels.json').write_text(json.dumps(dict(a=['one', 'two'], b=['two'], c=[])))
    pipeline = [LOAD, dict(type='LoadPseudoMask', mask_dir=str(root / 'masks'), num_classes=3),
                PACK]
    return DATASETS.build(dict(
        type='TaggedDataset', labels=dict(type='json', path='labels.json', allow_empty=True),
        dataset=dict(
            type='BaseSegDataset', data_root=str(root), data_prefix=dict(img_path='images'),
            img_suffix='.png', pipeline=pipeline,
            metainfo=dict(classes=('background', 'one', 'two'),
                          palette=[[0, 0, 0], [255, 0, 0], [0, 255, 0]]))))
