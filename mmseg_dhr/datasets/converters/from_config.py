"""What a config says about its data set: images, masks, where its tags are read."""
from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from ...utils import UserError
from ..tagged_dataset import build_wrapped
from .counts import print_count, print_tags

__all__ = ['TrainingImages', 'check_config', 'labels_file', 'training_images']


class TrainingImages(NamedTuple):
    """The training images of a config, without their tags.

    Attributes:
        dataset: The mmseg data set, without pipeline.
        root: Its data root.
        background_index: Label id of the background, None if there is none.
        labels: Where the config reads the tags.
        ids: Image ids.
        masks: The true mask of each image, which need not exist; empty if the config names none.
    """
    dataset: Any
    root: Path
    background_index: int | None
    labels: Mapping[str, Any]
    ids: list[str]
    masks: dict[str, Path]


def training_images(config: Config) -> TrainingImages:
    """List the training images of a config whose tags may not be there yet.

    Raises:
        UserError: If the config has no ``TaggedDataset``.
        FileNotFoundError: If the images or their list are missing.
    """
    tagged = (config.get('train_dataloader') or {}).get('dataset') or {}
    if tagged.get('type') != 'TaggedDataset':
        raise UserError(f'{config.filename}: expected a TaggedDataset as `train_dataloader.dataset`'
                        f', but found {tagged.get("type")}.')
    init_default_scope(config.get('default_scope', 'mmseg'))
    dataset = build_wrapped({**tagged['dataset'], 'pipeline': []})
    root = Path(dataset.data_root or '.')
    ids = [Path(dataset.get_data_info(i)['img_path']).stem for i in range(len(dataset))]
    masks = {}
    if 'score_masks' in config:
        # As in the data set itself: COCO-Stuff's files have a longer suffix.
        masks = {image_id: root / config.score_masks / f'{image_id}{dataset.seg_map_suffix}'
                 for image_id in ids}
    return TrainingImages(dataset, root, tagged.get('background_index', 0), tagged['labels'], ids,
                          masks)


def labels_file(images: TrainingImages) -> Path:
    """The JSON file that the config reads its tags from.

    Raises:
        UserError: If it reads them from something else.
    """
    if images.labels.get('type') != 'json':
        raise UserError(f'The config reads its tags from {dict(images.labels)}, which is no JSON '
                        "file: say where to write them with `--out`, and set `labels=dict(type="
                        "'json', path=...)` to read them.")
    return Path(os.path.join(images.root, images.labels['path']))


def check_config(config: Config) -> None:
    """Build the data sets of a config as a training would, without reading a pixel, and report.

    Prints the number of images and tags of the training set, classes that no training image shows,
    and the number of images to validate on; warns where a number is not the official one.

    Raises:
        UserError: If masks to validate with are missing.
        FileNotFoundError, ValueError: If images, lists or tags are missing or wrong.
    """
    images = training_images(config)
    name = type(images.dataset).__name__
    tagged = DATASETS.build({**config.train_dataloader['dataset'], 'dataset': images.dataset})
    tags = {i: tagged.image_labels(k) for k, i in enumerate(tagged.image_ids)}
    print_tags('train', tags, name)
    classes = tagged.metainfo['classes']
    shown = {tag for row in tags.values() for tag in row} | {images.background_index}
    unseen = [classes[label] for label in range(len(classes)) if label not in shown]
    print(f'classes that no training image shows: {", ".join(unseen) or "none"}')
    if config.get('val_dataloader'):
        _check_val(config, name)


def _check_val(config: Config, name: str) -> None:
    dataset = build_wrapped({**config.val_dataloader['dataset'], 'pipeline': []})
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    missing = [info[key] for info in infos for key in ('img_path', 'seg_map_path')
               if not os.path.isfile(info[key])]
    if missing:
        raise UserError(f'{len(missing)} images or masks of the validation set do not exist, such '
                        f'as {", ".join(missing[:3])}.')
    print_count('val', len(infos), name, 'val')
