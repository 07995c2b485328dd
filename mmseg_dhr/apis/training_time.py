"""How much longer does an iteration take with DHR? (Table 7)"""
from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner

from ..utils import UserError
from .analysis import change_transforms
from .build import propagation_of

__all__ = ['PARTS', 'Times', 'time_training']

PARTS = ('loading', 'network', 'USS encoder', 'R_C', 'rest of DHR')


class Times(NamedTuple):
    """Seconds of iterations, one of each kind in turn on the same images.

    Attributes:
        given: On given masks.
        online: With DHR.
        parts: With DHR, by part (:data:`PARTS`). One is done after the other here, and a GPU is
            waited for in between.
    """
    given: list[float]
    online: list[float]
    parts: list[dict[str, float]]


class _Clock:
    """Adds up seconds by name; waits for the GPU, whose work is asynchronous."""

    def __init__(self, device: torch.device, timer: Callable[[], float]) -> None:
        self.device = device
        self.timer = timer
        self.seconds: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return self.timer()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = self.now()
        yield
        self.seconds[name] += self.now() - start


class _Timed:
    """A callable whose calls are timed; all else is that of the original."""

    def __init__(self, original: Any, clock: _Clock, name: str) -> None:
        self._original = original
        self._clock = clock
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._clock(self._name):
            return self._original(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def time_training(model: Any, config: Config, iters: int, discard: int = 2,
                  progress: Callable[[range], Any] = iter,
                  timer: Callable[[], float] = time.perf_counter) -> Times:
    """Time iterations of training on given masks and with DHR online, in turn.

    Both kinds see the same images in the same order, loaded in this process. Plain training does
    not read the cached USS features. The weights move, as they do in training.

    Args:
        model (DualEncoderSegmentor): With a propagation and no teacher; it is trained.
        config (Config): Gives the training's loader and optimizer.
        iters (int): Timed iterations of each kind.
        discard (int): Iterations of each kind before those. Defaults to 2.
        progress (Callable): Goes round the iterations, for a progress bar. Defaults to none.
        timer (Callable): Seconds, from any start. ``time.process_time`` counts what this process
            computes, whatever else the machine does. Defaults to the wall clock.

    Returns:
        Times: Seconds of every iteration.

    Raises:
        UserError: If the model has no propagation, or the pipeline loads no M_base.
    """
    propagation_of(model)
    clock = _Clock(next(model.parameters()).device, timer)
    loaders = {kind: _batches(config, kind) for kind in Times._fields}
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    times = Times([], [], [])
    model.train()
    for index in progress(range(discard + iters)):
        for kind in Times._fields:
            model.set_phase('given' if kind == 'given' else 'online')
            by_part = kind == 'parts'
            with _timers(model, clock) if by_part else nullcontext():
                found = _iteration(model, loaders[kind], optimizer, clock)
            if index >= discard:
                seconds = _parts(found) if by_part else found['loading'] + found['step']
                getattr(times, kind).append(seconds)
    return times


def _batches(config: Config, kind: str) -> Iterator[dict]:
    """Endless batches of the training's loader."""
    loader = config.train_dataloader.to_dict()
    if kind == 'given':
        loader, _ = change_transforms(loader, 'LoadUSSFeatures', lambda _: None)
    loader.update(num_workers=0, persistent_workers=False)
    loader.pop('prefetch_factor', None)
    built = Runner.build_dataloader(loader, seed=config.get('randomness', {}).get('seed'))
    while True:
        yield from built


def _iteration(model: Any, batches: Iterator[dict], optimizer: Any,
               clock: _Clock) -> dict[str, float]:
    """Seconds of an iteration, by what the clock is told."""
    clock.seconds.clear()
    with clock('loading'):
        batch = next(batches)
    if all(sample.metainfo.get('base_shares') is None for sample in batch['data_samples']):
        raise UserError('The training pipeline loads no M_base, so that there is nothing to train '
                        'on without DHR. Make masks with `python tools/make_base_masks.py` where '
                        'its `LoadPseudoMask` looks for them.')
    with clock('step'):
        model.train_step(batch, optim_wrapper=optimizer)
    return clock.seconds


def _parts(found: dict[str, float]) -> dict[str, float]:
    return {
        'loading': found['loading'],
        'network': found['step'] - found['propagation'] - found['USS encoder'],
        'USS encoder': found['USS encoder'],
        'R_C': found['R_C'],
        'rest of DHR': found['propagation'] - found['R_C'],
    }


@contextmanager
def _timers(model: Any, clock: _Clock) -> Iterator[None]:
    """Time the propagation, its R_C and the USS encoder for a while, one after the other."""
    propagation, encoder, overlap = model.propagation, model.uss_encoder, model.overlap
    refine, forward = propagation.refine, getattr(encoder, 'forward', None)
    propagation.refine = refine and _Timed(refine, clock, 'R_C')
    model.propagation = _Timed(propagation, clock, 'propagation')
    model.overlap = False
    if encoder is not None:
        encoder.forward = _Timed(forward, clock, 'USS encoder')
    try:
        yield
    finally:
        propagation.refine, model.propagation, model.overlap = refine, propagation, overlap
        if encoder is not None:
            del encoder.forward
