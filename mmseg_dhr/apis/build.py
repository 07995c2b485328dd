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


def build_dataset(config: Config, key: str = 'pseudo_label_dataset',
                  expects_base: bool = False) -> Any:
    """The tagged data set that a config names for work on whole images.

    Args:
        config (Config): Its ``key`` is a ``TaggedDataset``.
        key (str): Defaults to 'pseudo_label_dataset'.
        expects_base (bool): Warn if the pipeline would load an M_base but finds none, for masks
            are made without one as well. Defaults to False.

    Raises:
        UserError: If the config has no such key, or its M_base, if expected, is unfinished.
    """
    if key not in config:
        raise UserError(f'The config has no `{key}`: a TaggedDataset of the training images with '
                        'an un-augmented pipeline. See configs/_base_/datasets for examples.')
    init_default_scope(config.get('default_scope', 'mmseg'))
    dataset = DATASETS.build(config[key])
    if expects_base and (trouble := _missing_base(dataset, config.get('work_dir'))):
        print_log(f"{trouble} So the masks start from the network's own seeds.", logger='current',
                  level=logging.WARNING)
    return dataset


def _missing_base(dataset: Any, work_dir: str | None) -> str:
    if (folder := idle_base(dataset, work_dir)) is not None:
        return (f'{folder} holds M_base, but the config loads none: if the training began with '
                'MMSEG_DHR_BASE, set it now, too.')
    folders = [Path(loader.mask_dir) for loader in _loaders(dataset) if loader.mask_dir is not None]
    for folder in folders:
        if (manifest := Manifest.load(folder)) is not None and not manifest.complete:
            raise UserError(f'{folder}: this M_base is unfinished. Run the command that makes it '
                            'again: it goes on where it stopped.')
    empty = next((f for f in folders if f.is_dir() and not any(f.glob('*.png'))), None)
    return '' if empty is None else (
        f'{empty} is to hold M_base, but there is no mask in it: a training makes them at the end '
        'of its warm-up, tools/make_base_masks.py at any time.')


def idle_base(dataset: Any, work_dir: str | Path | None) -> Path | None:
    """The M_base in a work directory, if the data set's ``LoadPseudoMask`` is told of none."""
    told_of_none = any(loader.mask_dir is None for loader in _loaders(dataset))
    folder = Path(work_dir or '.') / 'base_masks'
    return folder if told_of_none and Manifest.load(folder) is not None else None


def _loaders(dataset: Any) -> list[LoadPseudoMask]:
    pipeline = getattr(getattr(dataset, 'dataset', None), 'pipeline', None)
    return [transform for transform in getattr(pipeline, 'transforms', ())
            if isinstance(transform, LoadPseudoMask)]
