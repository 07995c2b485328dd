from __future__ import annotations

import pytest
import torch
from mmseg.registry import MODELS

from tests.test_models.small_dual_encoder import CLASSES, CellMeanUSS


@pytest.fixture
def build(tiny_model, mmseg_modules):
    """Builds a model in train mode; without CRF, which is tested elsewhere."""

    def make(**options):
        torch.manual_seed(0)
        config = tiny_model(**{**dict(
            num_classes=CLASSES, size=(32, 32), uss_encoder=dict(type=CellMeanUSS.__name__),
            propagation=dict(type='DHRPropagation', num_classes=CLASSES, stride=2, refine=None)),
            **options})
        return MODELS.build(config).train()

    return make
