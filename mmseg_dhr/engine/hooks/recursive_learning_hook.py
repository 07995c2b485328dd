from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, barrier, broadcast, get_dist_info, master_only
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import weights_to_cpu
from mmseg.registry import HOOKS

from ...apis import (
    BaseMaskSettings,
    DebiasSettings,
    write_base_masks,
    write_debiased_masks,
    write_pseudo_labels,
)
from ...apis.build import idle_base
from ...apis.pseudo_labels import read_shares
from ...evaluation import GroupScores, MaskPair, MaskScores, list_pairs, score_pairs
from ...formats import Manifest
from ...utils import UserError
from .runners import model_of, restart_data

WARMUP_CHECKPOINT = 'warmup.pth'
SOURCES = ('student', 'teacher')
_BASE_MASK_OPTIONS = ('seeds', 'flavour', 'scales', 'flip', 'threads')


@HOOKS.register_module()
class RecursiveLearningHook(Hook):
    """Recursive training of DHR (Section 3.3): when pseudo-labels are made, and by which network.

    ``warmup_iters`` iterations train the tags alone. Then, if ``base_masks`` is given, the
    network's own CAMs and a CRF become M_base for the whole training set, or another method's seeds
    and a CRF, or its masks. After that:

    - ``interval=1``: every iteration makes M_dh from the current network (the paper);
    - ``interval=k``: every k iterations the network of that moment writes M_dh of the whole set to
      a folder, and the segmentor trains on it in between (``pseudo_labels`` says where);
    - ``interval='epoch'``: the same with k = number of images / global batch size, rounded up.

    "The network" is the one that is trained (the paper), or with ``source='teacher'`` the moving
    average that mmengine's ``EMAHook`` keeps of it, in eval mode.

    At the end of the warm-up the weights of that network are kept as ``warmup.pth`` in the work
    directory: those that made M_base, so that it can be made again from them, and from which other
    trainings can start. (In all other checkpoints ``EMAHook`` swaps the moving average in.)

    Online, ``dhr/vanished``, ``dhr/background``, ``dhr/ignored`` and ``dhr/changed`` are logged
    with the losses, see :func:`mmseg_dhr.models.segmentors.mask_figures.mask_figures`. After each
    round a line is logged, and ``round/...`` goes to the visualizer, in per cent:

    - vanished: tagged classes without a single pixel in their image;
    - changed: pixels labelled in the round before that have another label, or none, now;
    - mIoU and recall < 10 % (:class:`MaskScores`), if ``truth_dir`` is given.

    Args:
        warmup_iters (int): Length of the warm-up. Defaults to 0.
        interval (int or str): See above. Defaults to 1.
        base_masks (dict, optional): ``out_dir`` (the ``mask_dir`` of the pipeline's
            ``LoadPseudoMask``) and, optionally, ``scales``, ``flip``, ``threads`` and the fields of
            :class:`BaseMaskSettings`; ``seeds``, a folder of another method's seeds or masks to
            make M_base of, and their ``flavour``, see
            :func:`mmseg_dhr.apis.base_masks.write_base_masks`; ``debias``, which removes biased
            objects from them: ``features``, a folder of cached USS features, and, optionally, the
            fields of :class:`DebiasSettings` (the masks before go to ``{out_dir}.biased``). None:
            the pipeline's masks are the user's, or there are none.
        pseudo_labels (dict, optional): For rounds: ``out_dir`` (the ``mask_dir`` of the training
            pipeline), ``dataset`` (its images, un-augmented, with M_base) and, optionally,
            ``stride`` and ``batch_size``; ``truth_dir``, a folder of true masks ``{img_id}.png``
            for the figures alone; ``share_momentum`` in [0, 1), with which the class shares that a
            propagation may need are averaged over the rounds.
        source (str): 'student' or 'teacher'. Defaults to 'student'.

    Raises:
        ValueError: If a setting is missing or out of range.
    """

    # After EMAHook, which is NORMAL: a round sees the average of the iteration that completes it.
    priority = 'BELOW_NORMAL'

    def __init__(self,
                 warmup_iters: int = 0,
                 interval: int | str = 1,
                 base_masks: dict | None = None,
                 pseudo_labels: dict | None = None,
                 source: str = 'student') -> None:
        wrong = interval != 'epoch' if isinstance(interval, str) else interval < 1
        if warmup_iters < 0 or wrong:
            raise ValueError("Expected warmup_iters >= 0 and interval >= 1 or 'epoch', "
                             f'but got {warmup_iters} and {interval}.')
        if (interval != 1) != (pseudo_labels is not None):
            raise ValueError('`pseudo_labels` (out_dir, dataset) goes with interval > 1 or '
                             "'epoch' alone.")
        if source not in SOURCES:
            raise ValueError(f'Expected source to be one of {SOURCES}, but got {source!r}.')
        _check_fields('base_masks', base_masks, BaseMaskSettings, ('out_dir', 'debias',
                                                                   *_BASE_MASK_OPTIONS))
        debias = (base_masks or {}).get('debias')
        _check_fields('base_masks.debias', debias, DebiasSettings, ('features', ))
        if debias is not None and 'features' not in debias:
            raise ValueError('`base_masks.debias` needs `features`, a folder of cached USS '
                             'features.')
        self.warmup_iters = warmup_iters
        self.interval = interval
        self.base_masks = base_masks
        self.pseudo_labels = pseudo_labels
        self.source = source
        self._saves_warmup = False

    def before_train(self, runner: Runner) -> None:
        """Take up the phase of this iteration; with a resumed training, check what it needs.

        Raises:
            UserError: If ``source`` is 'teacher' and there is no ``EMAHook``; if masks that this
                training made before the break are not there, or are there and not loaded.
        """
        self._round_length = (_epoch_length(runner) if isinstance(self.interval, str)
                              else self.interval)
        self._source = self._find_source(runner)
        for options in filter(None, (self.base_masks, self.pseudo_labels)):
            _claim(Path(options['out_dir']))
            if options.get('debias'):
                _claim(Path(_biased(options['out_dir'])))
        idle = idle_base(runner.train_dataloader.dataset, runner.work_dir)
        if runner.iter and idle is not None:
            raise UserError(f'{idle} holds the M_base with which this training began, but its '
                            'config now loads none. Set MMSEG_DHR_BASE as before the break; if it '
                            "is another training's, remove the folder.")
        restart_data(runner)
        if runner.max_iters <= self.warmup_iters:
            print_log(f'This training ends after {runner.max_iters} iterations, within its warm-up '
                      f'of {self.warmup_iters}: it learns the tags alone, and its segmentor '
                      'nothing. A shorter warm-up is `warmup_iters` of the RecursiveLearningHook.',
                      logger='current', level=logging.WARNING)
        if runner.iter < self.warmup_iters:
            model_of(runner).set_phase('warmup')
        elif runner.iter == self.warmup_iters:
            self._end_warmup(runner, runner.iter)  # base masks that are there already are kept
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
        elif (self.pseudo_labels is not None and done > self.warmup_iters
              and (done - self.warmup_iters) % self._round_length == 0):
            self._write_round(runner, done)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """``warmup.pth`` holds the source's weights, whatever EMAHook has swapped in."""
        if self._saves_warmup:
            checkpoint['state_dict'] = weights_to_cpu(self._source.state_dict())
            checkpoint.pop('ema_state_dict', None)

    def _find_source(self, runner: Runner) -> Any:
        """The network that makes the masks; the trained one learns of its teacher."""
        student = model_of(runner)
        hook = next((h for h in runner.hooks if isinstance(h, EMAHook)), None)
        if hook is not None:
            hook.ema_model.module.share_uss_encoder(student)
        if self.source == 'student':
            student.set_teacher(None)
            return student
        if hook is None:
            raise UserError("RecursiveLearningHook(source='teacher') takes the moving average of "
                            'the weights as teacher, but nothing keeps one. Add an EMAHook to the '
                            "config, such as custom_hooks = [..., dict(type='EMAHook', "
                            'momentum=0.001)].')
        teacher = hook.ema_model.module
        if hook.ema_model.steps == 0:
            # EMAHook copied the model before its weights were initialised.
            teacher.load_state_dict(student.state_dict())
        student.set_teacher(teacher)
        return teacher

    def _check_masks(self, runner: Runner) -> None:
        if self.base_masks is not None:
            _load_complete(self.base_masks['out_dir'], self._base_command(runner))
        if self.pseudo_labels is not None:
            self._check_round(runner, self.pseudo_labels['out_dir'])

    def _base_command(self, runner: Runner) -> str:
        """What makes the base masks outside of this training."""
        options = self.base_masks or {}
        folder, debias = options['out_dir'], options.get('debias')
        target = _biased(folder) if debias else folder
        made = f"{options.get('seeds')} {target}"
        if options.get('seeds') is None:
            scales = ' '.join(map(str, options.get('scales', (1.0, ))))
            made = f'{Path(runner.work_dir) / WARMUP_CHECKPOINT} {target} --scales {scales}'
        command = f'tools/make_base_masks.py CONFIG {made}'
        if debias:
            command += (f' && tools/debias_masks.py CONFIG {target} {folder} '
                        f"--features {debias['features']}")
        return command

    def _check_round(self, runner: Runner, folder: str) -> None:
        """See that the masks in use are those of the last round before this iteration."""
        rounds = (runner.iter - self.warmup_iters) // self._round_length
        due = self.warmup_iters + rounds * self._round_length
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

    def _share_statistics(self) -> None:
        """Batch statistics differ by process: masks are made with those of checkpoints."""
        for buffer in self._source.buffers():
            broadcast(buffer)

    def _end_warmup(self, runner: Runner, done: int) -> None:
        if done:
            self._save_warmup(runner)
        if self.base_masks is not None:
            self._write_base(runner.train_dataloader.dataset, **self.base_masks)
            self._back_to_training(runner)
        self._set_training_phase(runner)
        if self.pseudo_labels is not None:
            self._write_round(runner, done)

    def _write_base(self, dataset: Any, out_dir: str, debias: dict | None = None,
                    **options: Any) -> None:
        self._share_statistics()
        # The folders belong to this run: masks of an earlier run are replaced.
        run = {k: options.pop(k) for k in _BASE_MASK_OPTIONS if k in options}
        model = self._source
        settings = BaseMaskSettings(background_index=model.cam_head.background_index, **options)
        write_base_masks(dataset, _biased(out_dir) if debias else out_dir, settings, overwrite=True,
                         model=None if 'seeds' in run else model, **run)
        if debias:
            found = dict(debias)
            features = found.pop('features')
            write_debiased_masks(dataset, _biased(out_dir), features, out_dir,
                                 DebiasSettings(**found), overwrite=True)

    @master_only
    def _save_warmup(self, runner: Runner) -> None:
        self._saves_warmup = True
        runner.save_checkpoint(runner.work_dir, WARMUP_CHECKPOINT, save_optimizer=False,
                               save_param_scheduler=False, by_epoch=False)
        self._saves_warmup = False

    def _set_training_phase(self, runner: Runner) -> None:
        model = model_of(runner)
        online = self.pseudo_labels is None and model.propagation is not None
        model.set_phase('online' if online else 'given')

    def _write_round(self, runner: Runner, done: int) -> None:
        self._share_statistics()
        options = dict(self.pseudo_labels or {})
        dataset = DATASETS.build(options.pop('dataset'))
        target, truth = Path(options.pop('out_dir')), options.pop('truth_dir', None)
        # Beside the masks in use, then in their place: a kill leaves a whole folder behind.
        fresh = target.with_name(f'{target.name}.next')
        manifest = Manifest.load(target)
        note = None if manifest is None or not manifest.complete else manifest.settings.get('note')
        # Masks of another training are no earlier round of this one.
        previous = target if note == done - self._round_length >= self.warmup_iters else None
        if previous is None and options.get('share_momentum') and done > self.warmup_iters:
            print_log(f'{target}: the class shares of the round before iteration {done} are gone, '
                      'so their average starts anew: this training will end with other weights '
                      'than without the break.', logger='current', level=logging.WARNING)
        write_pseudo_labels(self._source, dataset, fresh, overwrite=True, note=done,
                            past_shares=None if previous is None else read_shares(previous),
                            **options)
        self._log_round(runner, done, _round_figures(self._source, dataset, fresh, previous, truth))
        barrier()  # nobody moves the folders before everybody has read them
        _replace_folder(fresh, target)
        barrier()  # nobody reads before the folder is in its place
        self._back_to_training(runner)

    @staticmethod
    def _log_round(runner: Runner, done: int, figures: dict[str, float]) -> None:
        text = ' | '.join(f'{name} {value:.2f} %' for name, value in figures.items())
        print_log(f'Pseudo-labels of iteration {done} | {text}', logger='current')
        names = {'recall < 10 %': 'lost'}
        runner.visualizer.add_scalars(
            {f'round/{names.get(name, name)}': value for name, value in figures.items()}, step=done)

    def _back_to_training(self, runner: Runner) -> None:
        if self._source is model_of(runner):
            self._source.train()
        restart_data(runner)


def _check_fields(name: str, given: dict | None, settings: type, others: Sequence[str]) -> None:
    known = {*settings._fields, *others} - {'background_index'}  # type: ignore[attr-defined]
    if unknown := sorted(set(given or {}) - known):
        raise ValueError(f'Expected fields of `{name}` among {sorted(known)}, but got {unknown}.')


def _epoch_length(runner: Runner) -> int:
    """Iterations in which as many samples are drawn as the training set has images."""
    loader = runner.train_dataloader
    batch = loader.batch_sampler.batch_size * get_dist_info()[1]
    return math.ceil(len(loader.dataset) / batch)


def _biased(folder: str) -> str:
    """Where base masks are before biased objects are removed."""
    return f'{folder}.biased'


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


def _round_figures(model: Any, dataset: Any, fresh: Path, previous: Path | None,
                   truth_dir: str | None) -> dict[str, float]:
    """What is logged of a round, in per cent; all ranks call it and share the work."""
    # Labels of our own masks are final: what the data set does to those of its files is done.
    ours = [pair._replace(lookup=None) for pair in list_pairs(dataset, fresh, previous or fresh)[0]]
    scores = _score(model, ours)
    figures = dict(vanished=scores.vanished)
    if previous is not None:
        figures['changed'] = 100 - scores.accuracy
    if truth_dir is not None:
        scores = _score(model, list_pairs(dataset, fresh, truth_dir)[0])
        figures.update({'mIoU': scores.miou, 'recall < 10 %': scores.lost})
    return figures


def _score(model: Any, pairs: list[MaskPair]) -> GroupScores:
    rank, world = get_dist_info()
    background = model.cam_head.background_index
    part = score_pairs(pairs[rank::world], model.num_classes, background, progress=False)
    total = MaskScores(model.num_classes, background)
    for scores in all_gather_object(part):
        total.merge(scores)
    return total.compute().all


def _load_complete(folder: str, command: str) -> Manifest:
    manifest = Manifest.load(folder)
    if manifest is None or not manifest.complete:
        raise UserError(
            f'{folder}: the masks that this training made are missing or incomplete, so it cannot '
            f'go on as it began. Make them again with `{command}`, or start anew without '
            '--resume.')
    return manifest
