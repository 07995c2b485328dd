from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ...apis import write_uss_features
from ...formats import Manifest, open_output, read_features
from ...formats.atomic import atomic_path
from ...ops.correspondence import nearest_neighbours
from ...utils import UserError
from .runners import model_of, restart_data


@HOOKS.register_module()
class NeighbourTableHook(Hook):
    """Fills what a :class:`NeighbourPairDataset` reads, before training starts.

    First the cache of the frozen encoder's features, each image once. Then, if the data set wants
    neighbours, the table of the nearest images by the cosine of their mean feature. Both go on
    where a killed run stopped, and are made anew only if encoder or images changed.
    """

    def before_train(self, runner: Runner) -> None:
        """Write what is missing.

        Raises:
            UserError: If the cache holds features of another encoder, or there are too few images.
        """
        dataset = runner.train_dataloader.dataset
        write_uss_features(model_of(runner).encoder, dataset, dataset.features_dir)
        if dataset.neighbours_dir is not None and is_main_process():
            write_neighbours(dataset)
        barrier()
        restart_data(runner)


def write_neighbours(dataset: Any) -> None:
    """Write the table of neighbours from the cached features, unless it is there.

    Args:
        dataset (NeighbourPairDataset): With its cache filled.

    Raises:
        UserError: If there are fewer images than neighbours of one.
    """
    count = dataset.num_neighbours
    if len(dataset) <= count:
        raise UserError(f'{count} neighbours of each image need at least {count + 1} images, but '
                        f'the data set has {len(dataset)}. Set `num_neighbours` to at most '
                        f'{len(dataset) - 1}.')
    features = Manifest.load(dataset.features_dir)
    path = dataset.table_path
    settings = dict(kind='neighbours', count=count, features=features and features.fingerprint,
                    images=hashlib.sha256('\n'.join(dataset.image_ids).encode()).hexdigest())
    try:
        output = open_output(path.parent, settings, [path.stem], path.suffix, overwrite=True)
    except ValueError as error:
        raise UserError(str(error)) from error
    if output.remaining:
        files = [dataset.features_dir / f'{image_id}.safetensors' for image_id in dataset.image_ids]
        means = [read_features(file).float().mean((1, 2)) for file in files]
        table = nearest_neighbours(torch.stack(means), count).numpy()
        with atomic_path(path) as temporary, open(temporary, 'wb') as file:
            np.save(file, table)
        output.finish()
