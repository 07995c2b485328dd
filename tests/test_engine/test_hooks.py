"""When the hooks make masks and features, and what the iterations after that are given."""
from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner, load_checkpoint
from mmseg.registry import DATASETS, MODELS

from mmseg_dhr.apis import (
    BaseMaskSettings,
    DebiasSettings,
    uss_features,
    write_base_masks,
    write_debiased_masks,
    write_pseudo_labels,
    write_uss_features,
)
from mmseg_dhr.apis.pseudo_labels import read_shares
from mmseg_dhr.engine import RecursiveLearningHook
from mmseg_dhr.formats import Manifest, read_features, read_mask, write_mask
from mmseg_dhr.utils import UserError


class Watch(Hook):
    """Notes what each iteration was given."""
    priority = 'LOWEST'

    def __init__(self, folder):
        self.folder = folder
        self.phases, self.has_base, self.notes, self.training = [], [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        manifest = Manifest.load(self.folder) if self.folder.is_dir() else None
        self.notes.append(None if manifest is None else manifest.settings.get('note'))
        self.phases.append(runner.model.phase)
        self.training.append(runner.model.training)
        samples = data_batch['data_samples']
        self.has_base.append([sample.metainfo.get('base_shares') is not None for sample in samples])
        for sample in samples:  # nothing that lies in the folder is out of date
            if sample.metainfo.get('base_shares') is not None and not sample.metainfo.get('flip'):
                mask = read_mask(self.folder / f'{sample.img_id}.png')
                assert np.array_equal(sample.gt_sem_seg.data[0].numpy(), mask)


@pytest.fixture(autouse=True)
def _unformatted_configs(monkeypatch) -> None:
    """mmengine formats the whole config for every checkpoint, longer than all the rest takes."""
    monkeypatch.setattr(Config, 'pretty_text', property(repr))


@pytest.fixture
def train(tmp_path, tiny_model, tagged_scenes, mmseg_modules):
    """Trains on the scenes with hooks; returns what Watch saw."""

    def run(*hooks, max_iters=4, resume=False, masks='base', steps=(), checkpoints=1,
            log_level='WARNING', **model):
        pipeline = [dict(type='LoadImageFromFile'),
                    dict(type='LoadPseudoMask', mask_dir=masks and str(tmp_path / masks),
                         num_classes=9),
                    *steps, dict(type='PackTaggedInputs')]
        watch = Watch(tmp_path / (masks or 'none'))
        torch.manual_seed(0)
        options = dict(propagation=dict(type='DHRPropagation', num_classes=9, refine=None))
        runner = Runner(
            model=tiny_model(**{**options, **model}), work_dir=str(tmp_path / 'work'),
            train_dataloader=dict(batch_size=2, num_workers=0,
                                  dataset=tagged_scenes(pipeline, seed=0),
                                  sampler=dict(type='PositionSampler')),
            train_cfg=dict(type='ResumableIterLoop', max_iters=max_iters),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=.1)),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=checkpoints, by_epoch=False),
                logger=dict(type='LoggerHook', log_metric_by_epoch=False)),
            custom_hooks=[*hooks, watch], resume=resume, log_level=log_level,
            default_scope='mmseg', randomness=dict(seed=0), experiment_name=tmp_path.name)
        runner.train()
        watch.runner = runner
        return watch

    return run


@pytest.fixture
def recursive(tmp_path):
    """Config of the hook that makes M_base without CRF."""

    def config(warmup_iters=2, base=True, **options):
        if base:
            options['base_masks'] = dict(out_dir=str(tmp_path / 'base'), crf=None, scales=(1.0, ))
        return dict(type='RecursiveLearningHook', warmup_iters=warmup_iters, **options)

    return config


@pytest.fixture
def rounds(tmp_path, tagged_scenes):
    """Settings of a training whose masks are made anew every two iterations."""
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackTaggedInputs')]
    return dict(interval=2, pseudo_labels=dict(
        out_dir=str(tmp_path / 'round'), dataset=tagged_scenes(pipeline), stride=4, batch_size=3))


class TestRecursiveLearningHook:

    def test_tags_then_own_masks_then_dhr(self, train, recursive, scenes_root, tmp_path,
                                          tagged_scenes, tiny_model) -> None:
        seen = train(recursive())
        assert seen.phases == ['warmup'] * 2 + ['online'] * 2
        assert seen.has_base == [[False] * 2] * 2 + [[True] * 2] * 2
        assert all(seen.training)
        model = MODELS.build(tiny_model())
        load_checkpoint(model, str(tmp_path / 'work/warmup.pth'))
        write_base_masks(DATASETS.build(tagged_scenes()), tmp_path / 'expected',
                         BaseMaskSettings(crf=None), model)
        for path in (tmp_path / 'expected').glob('*.png'):
            assert path.read_bytes() == (tmp_path / 'base' / path.name).read_bytes()
        assert Manifest.load(tmp_path / 'base').count == 6

    def test_warmup_checkpoint_is_of_that_moment(self, train, recursive, tmp_path) -> None:
        (tmp_path / 'base').mkdir()
        train(recursive(base=False))
        checkpoint = torch.load(tmp_path / 'work/warmup.pth')
        expected = torch.load(tmp_path / 'work/iter_2.pth')
        assert checkpoint['meta']['iter'] == 2 and 'optimizer' not in checkpoint
        assert not any('uss_encoder' in name for name in checkpoint['state_dict'])
        for name, value in expected['state_dict'].items():
            assert torch.equal(checkpoint['state_dict'][name], value)
        # and resuming does not take it for the latest
        assert (tmp_path / 'work/last_checkpoint').read_text().endswith('iter_4.pth')

    def test_no_warmup(self, train, recursive, tmp_path) -> None:
        seen = train(recursive(0), max_iters=1)
        assert seen.phases == ['online'] and seen.has_base == [[True, True]]
        assert not (tmp_path / 'work/warmup.pth').exists()

    @pytest.mark.parametrize(('options', 'message'), [
        (dict(backgroud_constant=.4), r"`base_masks` among .*, but got \['backgroud_constant'\]"),
        (dict(debias=dict(feature='x')), r"`base_masks.debias` among .*, but got \['feature'\]"),
        (dict(debias=dict(keep=.2)), 'needs `features`')])
    def test_settings_are_checked_before_the_warmup(self, options, message) -> None:
        with pytest.raises(ValueError, match=message):
            RecursiveLearningHook(base_masks=dict(out_dir='base', **options))

    def test_warmup_alone(self, train, recursive, tmp_path, capsys) -> None:
        seen = train(recursive(2), max_iters=2)
        assert 'within its warm-up of 2: it learns the tags alone' in capsys.readouterr().out
        assert seen.phases == ['warmup'] * 2
        assert not list((tmp_path / 'base').iterdir())

    def test_without_propagation_the_masks_are_given(self, train, recursive) -> None:
        seen = train(recursive(1), max_iters=2, propagation=None, uss_encoder=None)
        assert seen.phases == ['warmup', 'given']

    def test_masks_of_an_earlier_training_are_replaced(self, train, recursive, tmp_path) -> None:
        train(recursive(1), max_iters=2)
        before = Manifest.load(tmp_path / 'base').settings['weights']
        train(recursive(2), max_iters=3)
        assert Manifest.load(tmp_path / 'base').settings['weights'] != before

    def test_masks_of_somebody_else_are_not(self, train, recursive, rounds, tmp_path) -> None:
        for folder, hook in (('base', recursive()), ('round', recursive(base=False, **rounds))):
            file = tmp_path / folder / 'mine.png'
            write_mask(file, np.zeros((4, 4), int), [[0, 0, 0]])
            with pytest.raises(UserError, match=rf'{folder}: .* masks of unknown origin'):
                train(hook, max_iters=3)
            assert file.exists()

    def test_rounds(self, train, recursive, rounds, tmp_path) -> None:
        seen = train(recursive(1, base=False, **rounds), max_iters=7, masks='round')
        assert seen.phases == ['warmup'] + ['given'] * 6
        assert seen.notes == [None, 1, 1, 3, 3, 5, 5]
        assert seen.has_base == [[False] * 2] + [[True] * 2] * 6
        assert all(seen.training)
        assert sorted(path.name for path in tmp_path.iterdir()) == ['round', 'work']
        assert Manifest.load(tmp_path / 'round').complete

    def test_resumes_after_the_warmup(self, train, recursive) -> None:
        train(recursive(), max_iters=3)
        seen = train(recursive(), max_iters=5, resume=True)
        assert seen.phases == ['online'] * 2 and seen.has_base == [[True] * 2] * 2

    @pytest.mark.parametrize('damage', [
        lambda folder: shutil.rmtree(folder),
        lambda folder: Manifest({}).save(folder),  # never completed
    ])
    def test_resume_without_the_masks(self, train, recursive, tmp_path, damage) -> None:
        train(recursive(), max_iters=3)
        damage(tmp_path / 'base')
        with pytest.raises(UserError, match=r'base: the masks .* `tools/make_base_masks\.py CONFIG '
                           r'.*warmup\.pth .*base --scales 1\.0`'):
            train(recursive(), max_iters=5, resume=True)

    @pytest.mark.parametrize('warmup', [0, 9])
    def test_resume_without_loading_the_masks(self, train, recursive, tmp_path, warmup) -> None:
        """As when MMSEG_DHR_BASE is forgotten: with another phase, or from other seeds."""
        train(recursive(1), max_iters=3)
        shutil.move(tmp_path / 'base', tmp_path / 'work/base_masks')
        with pytest.raises(UserError, match=r'base_masks holds the M_base .* MMSEG_DHR_BASE'):
            train(recursive(warmup, base=False), max_iters=5, masks=None, resume=True)
        train(recursive(0, base=False), max_iters=1, masks=None)  # a training of its own

    def test_seeds_of_another_method(self, train, recursive, scenes_root, tmp_path) -> None:
        tags = json.loads((scenes_root / 'image_labels.json').read_text())
        (tmp_path / 'seeds').mkdir()
        for image_id in tags:
            mask = read_mask(scenes_root / f'SegmentationClass/{image_id}.png')
            np.save(tmp_path / f'seeds/{image_id}.npy', {
                int(label) - 1: np.where(mask == label, .9, 0) for label in np.unique(mask)
                if label not in (0, 255)})
        hook = recursive(0)
        hook['base_masks'].update(seeds=str(tmp_path / 'seeds'), flavour='mctformer')
        seen = train(hook, max_iters=2)
        assert seen.phases == ['online'] * 2 and seen.has_base == [[True] * 2] * 2
        for path in (tmp_path / 'base').glob('*.png'):
            expected = read_mask(scenes_root / 'SegmentationClass' / path.name)
            assert np.array_equal(read_mask(path), np.where(expected == 255, 0, expected))
        assert Manifest.load(tmp_path / 'base').settings['background_constant'] == .39
        shutil.rmtree(tmp_path / 'base')
        with pytest.raises(UserError, match=r'`tools/make_base_masks\.py CONFIG .*seeds .*base`'):
            train(hook, max_iters=3, resume=True)

    def test_biased_objects_removed(self, train, recursive, tagged_scenes, tiny_model, tmp_path
                                    ) -> None:
        features, biased = tmp_path / 'features', tmp_path / 'base.biased'
        dataset = DATASETS.build(tagged_scenes())
        write_uss_features(MODELS.build(tiny_model()).uss_encoder, dataset, features)
        hook = recursive()
        hook['base_masks']['debias'] = dict(features=str(features), keep=.5, ignore=True)
        biased.mkdir()
        (biased / 'mine.png').touch()
        with pytest.raises(UserError, match=r'base\.biased: .* masks of unknown origin'):
            train(hook)
        shutil.rmtree(biased)
        assert train(hook).has_base == [[False] * 2] * 2 + [[True] * 2] * 2
        model = MODELS.build(tiny_model())
        load_checkpoint(model, str(tmp_path / 'work/warmup.pth'))
        write_base_masks(dataset, tmp_path / 'before', BaseMaskSettings(crf=None), model)
        write_debiased_masks(dataset, tmp_path / 'before', features, tmp_path / 'after',
                             DebiasSettings(keep=.5, ignore=True))
        for made, expected in ((biased, 'before'), (tmp_path / 'base', 'after')):
            paths = sorted((tmp_path / expected).glob('*.png'))
            assert len(paths) == 6
            assert all(path.read_bytes() == (made / path.name).read_bytes() for path in paths)
        assert any((read_mask(path) == 255).any() for path in (tmp_path / 'base').glob('*.png'))
        shutil.rmtree(tmp_path / 'base')
        with pytest.raises(UserError, match=r'`tools/make_base_masks\.py CONFIG .*base\.biased '
                           r'.* && tools/debias_masks\.py CONFIG .*base\.biased .*base '
                           r'--features .*features`'):
            train(hook, max_iters=5, resume=True)

    def test_resume_at_the_end_of_the_warmup_makes_the_masks(self, train, recursive,
                                                             tmp_path) -> None:
        train(recursive(2), max_iters=2)  # ends there, so that it made none
        seen = train(recursive(2), max_iters=3, resume=True)
        assert seen.phases == ['online'] and seen.has_base == [[True] * 2]

    def test_resume_between_rounds(self, train, recursive, rounds, tmp_path, capsys) -> None:
        hook = recursive(0, base=False, **rounds)
        train(hook, max_iters=4, masks='round')  # the round that is due at its end is left out
        seen = train(hook, max_iters=7, masks='round', resume=True)
        assert seen.phases == ['given'] * 3 and seen.notes == [4, 4, 6]
        assert 'than without the break' not in capsys.readouterr().out
        (tmp_path / 'work/last_checkpoint').write_text(str(tmp_path / 'work/iter_5.pth'))
        seen = train(hook, max_iters=7, masks='round', resume=True)
        assert 'holds the masks of iteration 6, but this training resumes at 5, where those of 4' \
            in capsys.readouterr().out
        assert seen.notes == [6, 6]
        shutil.rmtree(tmp_path / 'round')
        with pytest.raises(UserError, match=r'tools/make_pseudo_labels\.py'):
            train(hook, max_iters=8, masks='round', resume=True)

    @pytest.mark.parametrize(('options', 'message'), [
        (dict(warmup_iters=-1), 'got -1 and 1'),
        (dict(interval=0), 'got 0 and 0'),
        (dict(interval=2), '`pseudo_labels`'),
        (dict(interval='epoch'), '`pseudo_labels`'),
        (dict(interval='week'), "'epoch', but got 0 and week"),
        (dict(source='parent'), "'student', 'teacher'.*'parent'"),
        (dict(pseudo_labels=dict(out_dir='a', dataset={})), '`pseudo_labels`.* interval > 1'),
    ])
    def test_bad_arguments(self, options, message) -> None:
        with pytest.raises(ValueError, match=message):
            RecursiveLearningHook(**options)


EMA = dict(type='EMAHook', momentum=.2)


class TestTeacher:

    @pytest.fixture
    def load(self, tiny_model, mmseg_modules):
        """Builds a model from a checkpoint's weights."""

        def build(path, part='state_dict'):
            state = torch.load(path, weights_only=False)[part]
            model = MODELS.build(tiny_model(
                propagation=dict(type='DHRPropagation', num_classes=9, refine=None)))
            model.load_state_dict({k.removeprefix('module.'): v for k, v in state.items()
                                   if k != 'steps'})
            return model.eval()

        return build

    def test_needs_a_moving_average(self, train, recursive) -> None:
        with pytest.raises(UserError, match=r"custom_hooks = .*dict\(type='EMAHook'"):
            train(recursive(source='teacher'))

    @pytest.mark.parametrize('source', ['student', 'teacher'])
    def test_warmup_checkpoint_is_what_made_the_masks(self, train, recursive, tmp_path, load,
                                                      tagged_scenes, source) -> None:
        train(recursive(source=source), EMA, max_iters=3)  # whatever their order in the config
        warmup = torch.load(tmp_path / 'work/warmup.pth', weights_only=False)
        assert 'ema_state_dict' not in warmup
        # EMAHook puts the average under state_dict, and the trained weights under the other name.
        part = 'state_dict' if source == 'teacher' else 'ema_state_dict'
        for name, value in load(tmp_path / 'work/iter_2.pth', part).state_dict().items():
            assert torch.equal(warmup['state_dict'][name], value)
        write_base_masks(DATASETS.build(tagged_scenes()), tmp_path / 'expected',
                         BaseMaskSettings(crf=None), load(tmp_path / 'work/warmup.pth'))
        expected = sorted((tmp_path / 'expected').glob('*.png'))
        assert len(expected) == 6
        for path in expected:
            assert path.read_bytes() == (tmp_path / 'base' / path.name).read_bytes()

    @pytest.mark.parametrize('source', ['student', 'teacher'])
    def test_rounds_are_the_source_s(self, train, recursive, rounds, load, tmp_path,
                                     source) -> None:
        hook = recursive(2, base=False, source=source, **rounds)
        seen = train(hook, EMA, max_iters=3, masks='round')
        assert seen.notes == [None, None, 2] and all(seen.training)
        part = 'state_dict' if source == 'teacher' else 'ema_state_dict'
        options = dict(rounds['pseudo_labels'], out_dir=tmp_path / 'expected', note=2)
        write_pseudo_labels(load(tmp_path / 'work/iter_2.pth', part),
                            DATASETS.build(options.pop('dataset')), **options)
        for path in (tmp_path / 'expected').glob('*.png'):
            assert path.read_bytes() == (tmp_path / 'round' / path.name).read_bytes()
        assert Manifest.load(tmp_path / 'round').fingerprint == \
            Manifest.load(tmp_path / 'expected').fingerprint

    @pytest.mark.parametrize('source', ['student', 'teacher'])
    def test_the_average_has_no_uss_encoder(self, train, recursive, monkeypatch, tmp_path,
                                            source) -> None:
        seen = []
        find = RecursiveLearningHook._find_source

        def spy(hook, runner):
            average = next(h for h in runner.hooks if isinstance(h, EMAHook)).ema_model.module
            assert average.uss_encoder is not runner.model.uss_encoder  # EMAHook copies it
            found = find(hook, runner)
            seen.append(average.uss_encoder is runner.model.uss_encoder)
            return found

        monkeypatch.setattr(RecursiveLearningHook, '_find_source', spy)
        (tmp_path / 'base').mkdir()
        train(recursive(0, base=False, source=source), EMA, max_iters=1, checkpoints=9)
        assert seen == [True]

    def test_starts_as_the_student(self, train, recursive, tmp_path, monkeypatch) -> None:
        """EMAHook copies the model before its weights are initialised."""
        monkeypatch.setattr(Runner, '_init_model_weights', lambda runner: [
            p.data.fill_(.5) for p in runner.model.parameters()])
        seen = []
        find = RecursiveLearningHook._find_source

        def spy(hook, runner):
            teacher = find(hook, runner)
            seen.append({p.mean().item() for p in teacher.parameters()})
            return teacher

        monkeypatch.setattr(RecursiveLearningHook, '_find_source', spy)
        (tmp_path / 'base').mkdir()
        train(recursive(0, base=False, source='teacher'), EMA, max_iters=1, checkpoints=9)
        assert seen == [{.5}]

    def test_rounds_survive_a_break(self, train, recursive, rounds, tmp_path) -> None:
        hook = recursive(0, base=False, source='teacher', **rounds)

        def masks():
            return {p.name: p.read_bytes() for p in (tmp_path / 'round').glob('*.png')}

        train(hook, EMA, max_iters=5, masks='round')
        expected = masks(), torch.load(tmp_path / 'work/iter_5.pth', weights_only=False)
        shutil.rmtree(tmp_path / 'work')
        shutil.rmtree(tmp_path / 'round')
        train(hook, EMA, max_iters=3, masks='round')  # in the middle of a round
        seen = train(hook, EMA, max_iters=5, masks='round', resume=True)
        assert seen.notes == [2, 4] and masks() == expected[0]
        end = torch.load(tmp_path / 'work/iter_5.pth', weights_only=False)
        for part in ('state_dict', 'ema_state_dict'):
            for name, value in expected[1][part].items():
                assert torch.equal(end[part][name], value), name


class TestRounds:

    def scalars(self, tmp_path) -> list[dict]:
        file, = (tmp_path / 'work').glob('*/vis_data/scalars.json')
        return [json.loads(line) for line in file.read_text().splitlines()]

    def test_figures(self, train, recursive, rounds, scenes_root, tmp_path, capsys) -> None:
        rounds['pseudo_labels']['truth_dir'] = str(scenes_root / 'SegmentationClass')
        kept = {}

        class Keep(Hook):
            def before_train_iter(self, runner, batch_idx, data_batch=None):
                kept[runner.iter] = {p.stem: read_mask(p)
                                     for p in sorted((tmp_path / 'round').glob('*.png'))}

        train(recursive(1, base=False, **rounds), Keep(), max_iters=4, masks='round',
              log_level='INFO')
        tags = json.loads((scenes_root / 'image_labels.json').read_text())
        classes = DATASETS.build(rounds['pseudo_labels']['dataset']).metainfo['classes']
        numbers = {k: [classes.index(t) if isinstance(t, str) else t for t in v]
                   for k, v in tags.items()}
        lines = [line for line in self.scalars(tmp_path) if 'round/vanished' in line]
        assert [line['step'] for line in lines] == [1, 3]
        for line, masks in zip(lines, (kept[1], kept[3]), strict=True):
            pairs = [(t, mask) for k, mask in masks.items() for t in numbers[k]]
            vanished = np.mean([not (mask == t).any() for t, mask in pairs])
            assert line['round/vanished'] == pytest.approx(100 * vanished)
            truth = {k: read_mask(scenes_root / f'SegmentationClass/{k}.png') for k in masks}
            found = [((mask == t) & (truth[k] == t)).sum() / (truth[k] == t).sum()
                     for k, mask in masks.items() for t in numbers[k] if (truth[k] == t).any()]
            assert line['round/lost'] == pytest.approx(100 * np.mean(np.array(found) < .1))
            both = np.concatenate([np.stack([truth[k], m])[:, truth[k] != 255].T
                                   for k, m in masks.items()])
            iou = [((both == c).all(1).sum() / (both == c).any(1).sum())
                   for c in range(9) if (both == c).any()]
            assert line['round/mIoU'] == pytest.approx(100 * np.mean(iou))
        assert 'round/changed' not in lines[0]
        changed = [(kept[1][k] != m)[kept[1][k] != 255] for k, m in kept[3].items()]
        assert lines[1]['round/changed'] == pytest.approx(100 * np.concatenate(changed).mean())
        text = ''.join(capsys.readouterr()).replace('\n', ' ')
        assert 'Pseudo-labels of iteration 3 | vanished' in text and 'recall < 10 %' in text

    def test_masks_of_another_training_are_no_earlier_round(self, train, recursive, rounds,
                                                            tmp_path) -> None:
        train(recursive(0, base=False, **rounds), max_iters=3, masks='round')
        shutil.rmtree(tmp_path / 'work')
        train(recursive(4, base=False, **rounds), max_iters=5, masks='round')
        line, = (line for line in self.scalars(tmp_path) if 'round/vanished' in line)
        assert [name for name in line if 'round/' in name] == ['round/vanished']  # and no truth

    def test_an_epoch_long(self, train, recursive, rounds) -> None:
        rounds['interval'] = 'epoch'  # 6 images, 2 at a time
        seen = train(recursive(1, base=False, **rounds), max_iters=5, masks='round', checkpoints=9)
        assert seen.notes == [None, 1, 1, 1, 4]

    def test_shares_are_averaged_over_rounds(self, train, recursive, rounds, tmp_path) -> None:
        rounds['pseudo_labels']['share_momentum'] = .5
        kept = {}

        class Keep(Hook):
            def before_train_iter(self, runner, batch_idx, data_batch=None):
                kept[runner.iter] = read_shares(tmp_path / 'round')

        sharing = dict(propagation=dict(type='DHRPropagation', num_classes=9, refine=None,
                                        marginal='shares'))
        hook = recursive(0, base=False, **rounds)
        runner = train(hook, Keep(), max_iters=3, masks='round', **sharing).runner
        first, second = kept[0], kept[2]
        assert kept[1] == first and len(first) == 6
        state = torch.load(tmp_path / 'work/iter_2.pth', weights_only=False)['state_dict']
        runner.model.load_state_dict(state)
        dataset = DATASETS.build(rounds['pseudo_labels']['dataset'])
        write_pseudo_labels(runner.model, dataset, tmp_path / 'alone', stride=4, batch_size=3)
        estimates = read_shares(tmp_path / 'alone')
        for img_id, shares in second.items():
            expected = (np.array(first[img_id]) + estimates[img_id]) / 2
            assert shares == pytest.approx(expected.tolist(), abs=1e-6)
        # The same after a break: the folder of the round before is still there.
        shutil.rmtree(tmp_path / 'work')
        shutil.rmtree(tmp_path / 'round')
        train(hook, max_iters=2, masks='round', **sharing)
        train(hook, Keep(), max_iters=3, masks='round', resume=True, **sharing)
        assert kept[2] == second


class TestUSSFeatureHook:

    def test_fills_the_cache_once(self, train, recursive, tmp_path, monkeypatch) -> None:
        cache = tmp_path / 'features'
        hook = dict(type='USSFeatureHook', out_dir=str(cache), flip=True)
        steps = [dict(type='TrackGeometry', transforms=[dict(type='RandomFlip', prob=.5)]),
                 dict(type='LoadUSSFeatures', cache_dir=str(cache), stride=4)]
        train(hook, recursive(0), max_iters=1, steps=steps)
        assert Manifest.load(cache).complete and Manifest.load(cache).settings['flip'] is True
        files = list(cache.glob('*.safetensors'))
        assert len(files) == 6 and read_features(files[0]).shape == (16, 16, 16)
        monkeypatch.setattr(uss_features, 'multi_scale_features', None)  # not called again
        train(hook, recursive(0), max_iters=2, steps=steps, resume=True)

    def test_needs_an_encoder(self, train, tmp_path) -> None:
        with pytest.raises(UserError, match='needs `uss_encoder`'):
            train(dict(type='USSFeatureHook', out_dir=str(tmp_path / 'x')), uss_encoder=None)
