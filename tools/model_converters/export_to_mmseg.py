"""Export a trained model to plain MMSegmentation: a config and a checkpoint that run without mmseg_dhr."""
from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmseg.registry import METRICS, TRANSFORMS

from mmseg_dhr.formats import atomic_path
from mmseg_dhr.utils import UserError, check_checkpoint, leaf_datasets
from mmseg_dhr.utils.cli import add_config_arguments, config_from, friendly_errors
