"""An iteration of training with DHR online against one on given masks."""
from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import set_random_seed

from ..build import build_model
from ..training_time import PARTS, Times, time_training
from .timing import Race, Row, row

__all__ = ['refiners', 'train_rows']


def train_rows(config: Config, checkpoint: str | Path | None = None, iters: int = 10,
               timer: Callable[[], float] = time.perf_counter,
               device: torch.device | None = None) -> Iterator[Row]:
    """Lines of the suite: one for each implementation of R_C, with plain training beside it.

    Args:
        config (Config): See :func:`~mmseg_dhr.apis.training_time.time_training`; M_base and USS
            features are where it reads them.
        checkpoint (optional): Weights to start from; None leaves the initial ones.
        iters (int): Timed iterations of each kind. Defaults to 10.
        timer (Callable): Seconds, from any start. Defaults to the wall clock.
        device (optional): Defaults to the first GPU, or the CPU.

    Raises:
        UserError: If the model has no propagation, or the pipeline loads no M_base.
    """
    for name, changed in refiners(config):
        set_random_seed(changed.get('randomness', {}).get('seed') or 0)
        model = build_model(changed, checkpoint, device)
        times = time_training(model, changed, iters, timer=timer)
        yield _row(f'DHR online / given masks{name}', times, changed)


def refiners(config: Config) -> Iterator[tuple[str, Config]]:
    """The config with each implementation of R_C; as it is if that is no dense CRF."""
    refine = (config.model.get('propagation') or {}).get('refine', dict(type='DenseCRF'))
    if refine is None or refine['type'] != 'DenseCRF':
        yield '', config
        return
    # On a GPU the default is another one.
    for backend in ('numba', 'pydensecrf', *(['torch'] if torch.cuda.is_available() else [])):
        changed = deepcopy(config)
        changed.model.propagation.refine = dict(refine, backend=backend)
        yield f', R_C by {backend}', changed


def _row(what: str, times: Times, config: Config) -> Row:
    parts = {f'{part} ms': 1e3 * statistics.median(one[part] for one in times.parts)
             for part in PARTS}
    # Options on the command line change the preprocessor alone.
    crop = (config.model.get('data_preprocessor') or {}).get('size') or config.get('crop_size')
    slower = statistics.median(a / b for a, b in zip(times.online, times.given, strict=True))
    raced = Race(times.online, times.given, math.prod(crop) if crop else None,
                 {'DHR costs %': 100 * (slower - 1), **parts})
    return row('train', what, raced, config.model.cam_head.num_classes,
               config.train_dataloader.batch_size)
