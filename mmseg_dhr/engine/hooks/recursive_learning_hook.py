from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ...apis import BaseMaskSettings, write_base_masks, write_pseudo_labels
from ...formats import Manifest
from ...utils import UserError

WARMUP_CHECKPOINT = 'warmup.pth'


@HOOKS.register_module()
class RecursiveLearningHook(Hook):
    """Recursive training of DHR (Section 3.3): when pseudo-labels are made, and by which network.

    ``warmup_iters`` iterations train the tags alone. Then, if ``base_masks`` is given, the
    network's own CAMs and a CRF become M_base for the whole training set. After that:

    - ``interval=1``: every iteration makes M_dh from the current network (the paper);
    - ``interval=k``: every k iterations the network of that moment writes M_dh of the whole set to
      a folder, and the segmentor trains on it in between (``pseudo_labels`` says where).

    At the end of the warm-up the weights are kept as ``warmup.pth`` in the work directory.

    Args:
        warmup_iters (int): Length of the warm-up. Defaults to 0.
        interval (int): See above. Defaults to 1.
        base_masks (dict, optional): ``out_dir`` (the ``mask_dir`` of the pipeline's
            ``LoadPseudoMask``) and, optionally, ``scales``, ``flip``, ``workers`` and the fields of
            :class:`BaseMaskSettings`. None: the pipeline's masks are the user's, or there are none.
        pseudo_labels (dict, optional): For ``interval > 1``: ``out_dir`` (the ``mask_dir`` of the
            training pipeline), ``dataset`` (its images, un-augmented, with M_base) and, optionally,
            ``stride`` and ``batch_size``.

    Raises:
        ValueError: If a setting is missing or out of range.
    """

    def __init__(self,
                 warmup_iters: int = 0,
                 interval: int = 1,
                 base_masks: dict | None = None,
                 pseudo_labels: dict | None = None) -> None:
        if warmup_iters < 0 or interval < 1:
            raise ValueError('Expected warmup_iters >= 0 and interval >= 1, '
                             f'but got {warmup_iters} and {interval}.')
        if (interval > 1) != (pseudo_labels is not None):
            raise ValueError('`pseudo_labels` (out_dir, dataset) goes with interval > 1 alone.')
        self.warmup_iters = warmup_iters
        self.interval = interval
        self.base_masks = base_masks
        self.pseudo_labels = pseudo_labels

    def before_train(self, runner: Runner) -> None:
        """Take up the phase of this iteration; with a resumed training, check what it needs."""
        for options in filter(None, (self.base_masks, self.pseudo_labels)):
            _claim(Path(options['out_dir']))
        self._restart_data(runner)
        if runner.iter < self.warmup_iters:
            _model(runner).set_phase('warmup')
        elif runner.iter == self.warmup_iters:
            self._end_warmup(runner, runner.iter)  # what is there already is kept
        else:
            self._check_masks(runner)
            self._set_training_phase(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        """End the warm-up, or a round, after the iteration that completes it."""
        done = runner.iter + 1
        if done == runner.max_iters:
            return
        if done == self.warmup_iters:
            self._end_warmup(runner, done)
        elif (self.interval > 1 and done > self.warmup_iters
              and (done - self.warmup_iters) % self.interval == 0):
            self._write_round(runner, done)

    def _check_masks(self, runner: Runner) -> None:
        if self.base_masks is not None:
            folder, scales = self.base_masks['out_dir'], self.base_masks.get('scales', (1.0, ))
            _load_complete(folder, 'tools/make_base_masks.py CONFIG '
                           f'{Path(runner.work_dir) / WARMUP_CHECKPOINT} {folder} '
                           f'--scales {" ".join(map(str, scales))}')
        if self.pseudo_labels is not None:
            self._check_round(runner, self.pseudo_labels['out_dir'])

    def _check_round(self, runner: Runner, folder: str) -> None:
        """See that the masks in use are those of the last round before this iteration."""
        rounds = (runner.iter - self.warmup_iters) // self.interval
        due = self.warmup_iters + rounds * self.interval
        manifest = Manifest.load(folder)
        if runner.iter == due and (manifest is None or manifest.settings.get('note') != due):
            self._write_round(runner, due)
            return
        manifest = _load_complete(folder, f'tools/make_pseudo_labels.py CONFIG CHECKPOINT {folder}')
        found = manifest.settings.get('note')
        if found != due:
            print_log(f'{folder} holds the masks of iteration {found}, but this training resumes '
                      f'at {runner.iter}, where those of {due} were in use: it will end with other '
                      'weights than without the break. To avoid that, let the interval of the '
                      'checkpoints divide that of the rounds.', logger='current',
                      level=logging.WARNING)

    def _end_warmup(self, runner: Runner, done: int) -> None:
        if done:
            _save(runner)
        if self.base_masks is not None:
            options = dict(self.base_masks)
            run = {k: options.pop(k) for k in ('out_dir', 'scales', 'flip', 'workers')
                   if k in options}
            model = _model(runner)
            settings = BaseMaskSettings(background_index=model.cam_head.background_index, **options)
            # The folder belongs to this run: masks of an earlier run are replaced.
            write_base_masks(runner.train_dataloader.dataset, settings=settings, model=model,
                             overwrite=True, **run)
            model.train()
            self._restart_data(runner)
        self._set_training_phase(runner)
        if self.interval > 1:
            self._write_round(runner, done)

    def _set_training_phase(self, runner: Runner) -> None:
        model = _model(runner)
        online = self.interval == 1 and model.propagation is not None
        model.set_phase('online' if online else 'given')

    def _write_round(self, runner: Runner, done: int) -> None:
        options = dict(self.pseudo_labels or {})
        dataset = DATASETS.build(options.pop('dataset'))
        model = _model(runner)
        target = Path(options.pop('out_dir'))
        # Beside the masks in use, then in their place: a kill leaves a whole folder behind.
        fresh = target.with_name(f'{target.name}.next')
        write_pseudo_labels(model, dataset, fresh, overwrite=True, note=done, **options)
        _replace_folder(fresh, target)
        barrier()  # nobody reads before the folder is in its place
        model.train()
        self._restart_data(runner)

    @staticmethod
    def _restart_data(runner: Runner) -> None:
        """Batches that were loaded ahead saw the old masks: load them again."""
        if hasattr(runner.train_loop, 'restart_data'):
            runner.train_loop.restart_data()


def _model(runner: Runner) -> Any:
    model = runner.model
    return model.module if is_model_wrapper(model) else model


@master_only
def _save(runner: Runner) -> None:
    runner.save_checkpoint(runner.work_dir, WARMUP_CHECKPOINT, save_optimizer=False,
                           save_param_scheduler=False, by_epoch=False)


def _claim(folder: Path) -> None:
    """Make the folder; masks in it may be replaced, so refuse those that are not ours."""
    folder.mkdir(parents=True, exist_ok=True)
    if Manifest.load(folder) is None and any(folder.glob('*.png')):
        raise UserError(f'{folder}: expected an empty folder or one that an earlier training made, '
                        'for its masks are replaced, but found masks of unknown origin. Give '
                        'another `out_dir`.')


@master_only
def _replace_folder(fresh: Path, target: Path) -> None:
    # Deleting takes time, renaming does not: a kill hardly ever finds no folder in place.
    old = target.with_name(f'{target.name}.old')
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old)


def _load_complete(folder: str, command: str) -> Manifest:
    manifest = Manifest.load(folder)
    if manifest is None or not manifest.complete:
        raise UserError(
            f'{folder}: the masks that this training made are missing or incomplete, so it cannot '
            f'go on as it began. Make them again with `{command}`, or start anew without '
            '--resume.')
    return manifest
