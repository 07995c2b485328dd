"""What the hooks ask of a runner."""
from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

__all__ = ['model_of', 'restart_data']


def model_of(runner: Runner) -> Any:
    """The model itself, without what distributes it."""
    model = runner.model
    return model.module if is_model_wrapper(model) else model


def restart_data(runner: Runner) -> None:
    """Load again the batches that were loaded ahead: they saw other masks, or no features."""
    if hasattr(runner.train_loop, 'restart_data'):
        runner.train_loop.restart_data()
