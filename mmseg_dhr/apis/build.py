"""Model and data set of a config, as the stage commands need them."""
from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner.checkpoint import load_state_dict

from ..datasets.transforms import LoadPseudoMask
from ..formats import Manifest
from ..utils import UserError
from ..utils.checks import check_state, read_checkpoint

__all__ = ['build_dataset', 'build_model', 'default_device', 'idle_base', 'propagation_of']


def default_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def build_model(config: Config, checkpoint: str | Path | None,
                device: torch.device | None = None, method: str | None = None) -> Any:
    """The model of a config with the weights of a checkpoint, in eval mode.

    Args:
        config (Config): Its ``model`` is a ``DualEncoderSegmentor``, or one with ``method``.
        checkpoint (optional): File; None leaves the initial weights.
        device (optional): Defaults to :func:`default_device`.
        method (str, optional): What the model has to offer, such as 'cam_maps'; it may then be any.

    Raises:
        UserError: If the checkpoint is missing or does not fit, or the model is another one.
    """
    init_default_scope(config.get('default_scope', 'mmseg'))
    if method is None and config.model.type != 'DualEncoderSegmentor':
        raise UserError(f'Expected a config whose model is a DualEncoderSegmentor, '
                        f'but found {config.model.type}.')
    model = revert_sync_batchnorm(MODELS.build(config.model))
    if method is not None and not hasattr(model, method):
        raise UserError(f'Expected a config whose model has `{method}`, such as a CAMClassifier or '
                        f'a DualEncoderSegmentor, but found {config.model.type}.')
    if checkpoint is not None:
        state, _ = read_checkpoint(checkpoint)
        check_state(model, state, checkpoint)
        load_state_dict(model, state)
    return model.to(device or default_device()).eval()


def propagation_of(model: Any) -> Any:
    """The propagation of a model, or that of its config.

    Args:
        model: A DualEncoderSegmentor, or ``config.model``.

    Raises:
        UserError: If it has none.
    """
    propagation = getattr(model, 'propagation', None)
    if propagation is None:
        raise UserError('Expected a config whose `model.propagation` is a DHRPropagation, but '
                        'found none: without it there is no DHR. Give the config of a training '
                        'with DHR, such as configs/dhr/scenes_r18.py.')
    return propagation


def build_dataset(config: Config, key: str = 'pseudo_label_dataset') -> Any:
    """The tagged data set that a config names for work on whole images.

    Warns if the config's work directory holds an M_base that its pipeline does not load.

    Raises:
        UserError: If the config has no such key.
    """
    if key not in config:
        raise UserError(f'The config has no `{key}`: a TaggedDataset of the training images with '
                        'an un-augmented pipeline. See configs/_base_/datasets for examples.')
    init_default_scope(config.get('default_scope', 'mmseg'))
    dataset = DATASETS.build(config[key])
    if (folder := idle_base(dataset, config.get('work_dir'))) is not None:
        print_log(f'{folder} holds M_base, but the config loads none, so the masks start from the '
                  "network's own seeds. If the training began with MMSEG_DHR_BASE, set it now, "
                  'too.', logger='current', level=logging.WARNING)
    return dataset


def idle_base(dataset: Any, work_dir: str | Path | None) -> Path | None:
    """The M_base in a work directory, if the data set's ``LoadPseudoMask`` is told of none."""
    pipeline = getattr(getattr(dataset, 'dataset', None), 'pipeline', None)
    told_of_none = any(isinstance(transform, LoadPseudoMask) and transform.mask_dir is None
                       for transform in getattr(pipeline, 'transforms', ()))
    folder = Path(work_dir or '.') / 'base_masks'
    return folder if told_of_none and Manifest.load(folder) is not None else None
