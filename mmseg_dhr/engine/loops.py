"""Training loops."""
from __future__ import annotations

from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.runner import IterBasedTrainLoop
from mmseg.registry import LOOPS

from ..datasets.randomness import seed_everything

__all__ = ['ResumableIterLoop']


@LOOPS.register_module()
class ResumableIterLoop(IterBasedTrainLoop):
    """Iteration-based training that resumes exactly where it stopped.

    MMEngine's loop resumes by reading again every batch that was trained on, and goes on with
    another random state. This one starts the sampler at the batch that is due, and makes each
    iteration's random state (dropout and the like) a function of (seed, iteration, rank), so that a
    training that was killed and resumed ends with the weights of one that was not.

    It needs a seeded :class:`TaggedDataset` and a :class:`PositionSampler`::

        train_dataloader = dict(
            dataset=dict(type='TaggedDataset', seed=0, ...),
            sampler=dict(type='PositionSampler'), ...)
        train_cfg = dict(type='ResumableIterLoop', max_iters=..., val_interval=...)

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader or dict): The data loader.
        max_iters (int): Number of iterations.
        **kwargs: See :class:`mmengine.runner.IterBasedTrainLoop`.

    Raises:
        ValueError: If the data loader's sampler is no PositionSampler.
    """

    dataloader_iterator: Any

    def __init__(self, runner: Any, dataloader: Any, max_iters: int, **kwargs: Any) -> None:
        super().__init__(runner, dataloader, max_iters, **kwargs)
        self._batch_sampler = self.dataloader.batch_sampler
        sampler = getattr(self._batch_sampler, 'sampler', None)
        if not hasattr(sampler, 'set_start'):
            raise ValueError("ResumableIterLoop expects `sampler=dict(type='PositionSampler')` in "
                             f'the train_dataloader, but found {type(sampler).__name__}.')
        self._next_batch = 0  # number of the batch that the data loader gives next
        self._restart = False

    def restart_data(self) -> None:
        """Drop the batches that were prepared ahead and prepare them anew.

        To be called after files that the pipeline reads have changed, in any hook. The batch that
        is being trained on is not affected.
        """
        self._restart = True

    def run(self) -> Any:
        """Train until ``max_iters``.

        Returns:
            nn.Module: The model.
        """
        if self._next_batch != self._iter:  # the runner loaded a checkpoint
            self._next_batch = self._iter
            self.restart_data()
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            data_batch = self._fetch()
            seed_everything(self.runner.seed, self._iter, get_rank())
            self.run_iter(data_batch)
            self._decide_current_val_interval()
            if self._val_is_due():
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _fetch(self) -> Any:
        if self._restart:
            samples = self._next_batch * self._batch_sampler.batch_size * get_world_size()
            self._batch_sampler.sampler.set_start(samples)
            # Let go of the old iterator first: its workers end before the new ones start.
            self.dataloader_iterator = None
            self.dataloader_iterator = iter(self.dataloader)
            self._restart = False
        data_batch = next(self.dataloader_iterator)
        self._next_batch += 1
        return data_batch

    def _val_is_due(self) -> bool:
        return (self.runner.val_loop is not None and self._iter >= self.val_begin
                and (self._iter % self.val_interval == 0 or self._iter == self._max_iters))
