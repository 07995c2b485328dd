"""Training of USS heads: terms, what is trained, resume, and the way into the encoders."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample

from mmseg_dhr.engine.hooks.neighbour_table_hook import write_neighbours
from mmseg_dhr.formats import Manifest, read_features, read_mask, write_mask
from mmseg_dhr.models.uss.training import ClusterProbe, _derangements
from mmseg_dhr.ops import correspondence as ops
from mmseg_dhr.utils import UserError

ENCODER = dict(type='ViTUSS', model_name='test_vit')  # 64 channels, patches of 16 pixels
STEGO = dict(type='STEGOTraining', encoder=ENCODER, dim=8, num_clusters=4)
CAUSE = dict(type='CAUSETraining', encoder=ENCODER, dim=8, num_heads=4, grid=4, num_codes=16,
             codebook_iters=2, anchors=8, bank_size=300, num_clusters=4, positive=.5, negative=.2)


@pytest.fixture(autouse=True)
def _mmseg(mmseg_modules):
    """Configs name components of mmseg."""
    torch.manual_seed(0)


def build(config, **options):
    return MODELS.build({**config, **options}).train()


def batch(size=4, grid=4):
    """Features in which two directions of 64 channels tell two kinds of places apart."""
    kinds = torch.randint(2, (size, grid, grid))
    directions = torch.randn(2, 64)
    maps = directions[kinds].permute(0, 3, 1, 2) + .3 * torch.randn(size, 64, grid, grid)
    return maps, kinds


def total(losses):
    return sum(value for name, value in losses.items() if 'loss' in name)


def train(model, steps, features, lr=5e-3):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr)
    history = []
    for _ in range(steps):
        losses = model(features, mode='loss', positives=features.roll(1, 0))
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    return history


class TestSTEGO:
    def test_terms_by_hand(self):
        model = build(STEGO, neg_samples=2)
        features, positives = torch.randn(3, 64, 4, 4), torch.randn(3, 64, 4, 4)
        torch.manual_seed(1)
        found = model(features, mode='loss', positives=positives)
        torch.manual_seed(1)
        here, there = (torch.rand(3, 121, 2) * 2 - 1 for _ in range(2))
        partners = _derangements(3, 2)

        def term(other, order, weight, shift):
            parts = []
            for a, b in ((features, other), (model.head(features), model.head(other))):
                first = F.normalize(ops.sample_points(a, here), dim=1)
                second = F.normalize(ops.sample_points(b, there), dim=1)[order]
                parts.append(torch.einsum('bdi,bdj->bij', first, second))
            f, s = parts
            return -weight * (s.clamp(0) * (f - f.mean(2, keepdim=True) - shift)).mean()

        own = [0, 1, 2]
        torch.testing.assert_close(found['loss_inter'], term(positives, own, .25, .02))
        torch.testing.assert_close(found['loss_intra'], term(features, own, .67, .08))
        negatives = sum(term(features, order, .63, .66) for order in partners) / 2
        torch.testing.assert_close(found['loss_neg'], negatives)

    @pytest.mark.parametrize('length', [2, 3, 8])
    def test_nobody_is_its_own_negative(self, length):
        for order in _derangements(length, 20):
            assert sorted(order) == list(range(length))
            assert all(i != j for i, j in enumerate(order))

    def test_training_tells_kinds_apart_and_leaves_the_vit_alone(self):
        model = build(STEGO)
        vit = {k: v.clone() for k, v in model.encoder.state_dict().items()}
        features, kinds = batch()
        history = train(model, 40, features)
        terms = [sum(h[f'loss_{t}'] for t in ('inter', 'intra', 'neg')) for h in history]
        assert np.mean(terms[-5:]) < np.mean(terms[:5]) - .01
        codes = F.normalize(model.code(features), dim=1).permute(0, 2, 3, 1)
        own, other = codes[kinds == 0], codes[kinds == 1]
        assert (own @ own.t()).mean() > (own @ other.t()).mean() + .3
        assert all(torch.equal(v, vit[k]) for k, v in model.encoder.state_dict().items())
        assert not model.encoder.vit.training and model.head.training

    def test_what_it_needs(self):
        with pytest.raises(ValueError, match='expects positives'):
            build(STEGO)(torch.randn(2, 64, 4, 4), mode='loss')
        with pytest.raises(ValueError, match='two images'):
            build(STEGO)(torch.randn(1, 64, 4, 4), mode='loss', positives=torch.randn(1, 64, 4, 4))


class TestCAUSE:
    def test_codebook_first_then_head(self):
        model = build(CAUSE)
        start = {k: v.clone() for k, v in model.state_dict().items()}
        features, _ = batch()
        first = train(model, 2, features)
        assert all(set(h) == {'loss_modularity'} for h in first)
        assert not torch.equal(model.codebook, start['codebook'])
        assert torch.equal(model.head.f1.weight, start['head.f1.weight'])
        codebook = model.codebook.clone()
        second = train(model, 2, features)
        assert all('loss_contrast' in h for h in second)
        assert torch.equal(model.codebook, codebook)
        assert not torch.equal(model.head.f1.weight, start['head.f1.weight'])

    def test_the_teacher_follows(self):
        model = build(CAUSE, codebook_iters=0, momentum=.75)
        with torch.no_grad():
            model.head.f1.weight.fill_(4.)
            model.head_ema.f1.weight.fill_(0.)
        model(batch()[0], mode='loss')
        assert torch.allclose(model.head_ema.f1.weight, torch.tensor(1.))
        assert not any(p.requires_grad for p in model.head_ema.parameters())
        assert not model.head_ema.training and model.head.training

    def test_the_bank_keeps_the_latest(self):
        model = build(CAUSE, codebook_iters=0, bank_size=100)  # 64 codes a batch
        model(batch()[0], mode='loss')
        assert (model.bank_concepts >= 0).sum() == 64
        first = model.bank[:64].clone()
        model(batch()[0], mode='loss')
        assert (model.bank_concepts >= 0).all() and torch.equal(model.bank[64:], first[:36])

    def test_both_parts_lower_their_losses(self):
        model = build(CAUSE, codebook_iters=30)
        history = train(model, 60, batch()[0])
        modularity = [h['loss_modularity'] for h in history[:30]]
        contrast = [h['loss_contrast'] for h in history[30:]]
        assert modularity[-1] < modularity[0] - .02
        assert np.mean(contrast[-5:]) < .8 * np.mean(contrast[:5])

    def test_maps_come_to_the_grid_of_the_queries(self):
        model = build(CAUSE).eval()
        features = torch.randn(1, 64, 8, 12)
        expected = model.head_ema(F.interpolate(features, (4, 4), mode='nearest-exact'))
        torch.testing.assert_close(model.code(features), expected)


class TestProbes:
    def test_labels_train_the_linear_probe_alone(self):
        features, kinds = batch()
        gradients = []
        for labels in (kinds, 1 - kinds):
            torch.manual_seed(3)
            model = build(STEGO, num_classes=2)
            losses = model(features, mode='loss', positives=features, labels=labels)
            total(losses).backward()
            gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        for name, value in gradients[0].items():
            same = torch.equal(value, gradients[1][name])
            assert same != name.startswith('linear_probe'), name

    def test_without_classes_or_labels_there_is_no_linear_probe(self):
        features, kinds = batch()
        given = dict(mode='loss', positives=features)
        assert 'loss_linear_probe' not in build(STEGO)(features, labels=kinds, **given)
        assert 'loss_linear_probe' not in build(STEGO, num_classes=2)(features, **given)

    def test_ignored_labels(self):
        model = build(dict(type='USSProbes', encoder=ENCODER), num_classes=2)
        features, kinds = batch()
        assert model(features, mode='loss',
                     labels=torch.full_like(kinds, 255))['loss_linear_probe'] == 0
        half = kinds.clone()
        half[1:] = 255
        torch.testing.assert_close(
            model(features, mode='loss', labels=half)['loss_linear_probe'],
            F.cross_entropy(model.linear_probe(features[:1]), kinds[:1]))

    def test_clusters_begin_at_codes_and_part_kinds(self):
        model = build(dict(type='USSProbes', encoder=ENCODER, num_clusters=2))
        features, kinds = batch(8)
        train(model, 30, features)
        found = model.cluster_probe(features).argmax(1)
        assert max((found == kinds).float().mean(), (found != kinds).float().mean()) > .95

    @pytest.mark.parametrize(('codes', 'clusters', 'distinct'), [(9, 9, 9), (4, 6, 4)])
    def test_clusters_begin_at_codes_of_their_own(self, codes, clusters, distinct):
        probe = ClusterProbe(5, clusters)
        probe.loss(torch.randn(1, 5, 1, codes))
        assert len(probe.centres.unique(dim=0)) == distinct

    def test_prediction(self):
        model = build(STEGO, num_classes=3).eval()
        image = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8)  # BGR
        sample = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 40, 56)))
        found, = model([image], [sample], mode='predict')
        code = model.head(model.encoder(image[None, [2, 1, 0]])[0])
        for name, probe in (('pred_sem_seg', model.cluster_probe),
                            ('pred_linear', model.linear_probe)):
            scores = F.interpolate(probe(code), size=(40, 56), mode='bilinear')
            assert torch.equal(getattr(found, name).data, scores.argmax(1))
        torch.testing.assert_close(model([image])[0], code)
        with pytest.raises(ValueError, match="'there'"):
            model([image], [sample], mode='there')

    def test_the_encoder_is_in_no_checkpoint(self):
        model = build(STEGO)
        state = model.state_dict()
        assert not any(key.startswith('encoder.') for key in state)
        assert build(STEGO).load_state_dict(state).missing_keys == []


def pairs(scenes_root, folder, **options):
    scenes = dict(type='ScenesDataset', data_root=str(scenes_root), num_train=6, num_val=2, size=64,
                  pipeline=[])
    return dict(type='NeighbourPairDataset', dataset=scenes, features_dir=f'{folder}/features',
                neighbours_dir=f'{folder}/neighbours', num_neighbours=2, grid=4, **options)


def make_runner(scenes_root, folder, work_dir, model, max_iters, resume=False):
    torch.manual_seed(0)
    return Runner(
        model=model, work_dir=str(work_dir), resume=resume,
        train_dataloader=dict(
            batch_size=3, num_workers=0, sampler=dict(type='PositionSampler'),
            collate_fn=dict(type='default_collate'), dataset=pairs(scenes_root, folder)),
        train_cfg=dict(type='ResumableIterLoop', max_iters=max_iters),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=5e-4)),
        custom_hooks=[dict(type='NeighbourTableHook')],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3)),
        default_scope='mmseg', randomness=dict(seed=0),
        experiment_name=f'{work_dir.parent.name}_{work_dir.name}_{resume}')


@pytest.mark.parametrize(('config', 'encoder'), [(STEGO, 'STEGO'), (CAUSE, 'CAUSETR')])
def test_train_resume_and_use(scenes_root, tmp_path, config, encoder):
    weights = tmp_path / 'vit.pth'
    torch.save(MODELS.build(ENCODER).vit.state_dict(), weights)
    config = dict(config, encoder=dict(ENCODER, checkpoint=str(weights)))
    whole = make_runner(scenes_root, tmp_path, tmp_path / 'whole', config, 6).train()
    make_runner(scenes_root, tmp_path, tmp_path / 'parts', config, 3).train()
    parts = make_runner(scenes_root, tmp_path, tmp_path / 'parts', config, 6, resume=True).train()
    for key, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[key]), key

    options = dict(num_heads=4, square=True) if encoder == 'CAUSETR' else dict(flip=False)
    uss = MODELS.build(dict(
        type=encoder, backbone=dict(ENCODER, checkpoint=str(weights)),
        checkpoint=str(tmp_path / 'whole/iter_6.pth'), **options))
    image = torch.randint(0, 256, (3, 48, 96))
    torch.testing.assert_close(uss(image[None].flip(1))[0], whole.eval()([image])[0])


class TestPairs:
    @pytest.fixture
    def filled(self, scenes_root, tmp_path):
        """The data set with random features and its table."""
        dataset = DATASETS.build(pairs(scenes_root, tmp_path, masks=True))
        from mmseg_dhr.formats import write_features
        for image_id in dataset.image_ids:
            write_features(tmp_path / f'features/{image_id}.safetensors', torch.randn(5, 3, 6))
        Manifest(dict(kind='test')).save(tmp_path / 'features')
        write_neighbours(dataset)
        return dataset

    def test_table(self, filled, tmp_path):
        means = torch.stack([read_features(tmp_path / f'features/{i}.safetensors').float()
                             .mean((1, 2)) for i in filled.image_ids])
        assert np.load(filled.table_path).tolist() == ops.nearest_neighbours(means, 2).tolist()
        written = filled.table_path.stat().st_mtime_ns
        write_neighbours(filled)
        assert filled.table_path.stat().st_mtime_ns == written
        Manifest(dict(kind='another encoder')).save(tmp_path / 'features')
        write_neighbours(filled)
        assert filled.table_path.stat().st_mtime_ns > written
        manifest = json.loads((tmp_path / 'neighbours/manifest.json').read_text())
        assert manifest['complete'] and manifest['settings']['count'] == 2

    def test_samples(self, filled):
        table = np.load(filled.table_path)
        maps = {i: filled._features(i) for i in range(6)}
        seen = {}
        for position in range(60):  # ten epochs
            sample = filled[position]
            assert sample['inputs'].shape == (5, 4, 4) and sample['labels'].shape == (4, 4)
            assert sample['labels'].dtype is torch.long
            index, other = (next(i for i, m in maps.items() if torch.equal(m, sample[key]))
                            for key in ('inputs', 'positives'))
            seen.setdefault(index, []).append(other)
        assert {i: set(found) for i, found in seen.items()} == {
            i: set(table[i]) for i in range(6)}
        assert all(len(found) == 10 for found in seen.values())
        assert torch.equal(filled[17]['positives'], filled[17]['positives'])

    def test_masks_are_read_as_the_data_set_says(self, filled, scenes_root, tmp_path):
        for image_id in filled.image_ids:
            mask = read_mask(scenes_root / f'SegmentationClass/{image_id}.png')
            write_mask(tmp_path / f'shifted/{image_id}_x.png', np.where(mask == 255, 0, mask + 1),
                       filled.metainfo['palette'])
        config = pairs(scenes_root, tmp_path, masks=True)
        prefix = dict(img_path='JPEGImages', seg_map_path=str(tmp_path / 'shifted'))
        config['dataset'].update(data_prefix=prefix, seg_map_suffix='_x.png',
                                 reduce_zero_label=True)
        assert torch.equal(DATASETS.build(config)[0]['labels'], filled[0]['labels'])

    def test_masks_that_the_data_set_does_not_name(self, scenes_root, tmp_path):
        config = pairs(scenes_root, tmp_path, masks=True)
        config['dataset']['data_prefix'] = dict(img_path='JPEGImages')
        with pytest.raises(UserError, match=r'ScenesDataset names none.*data_prefix\.seg_map_path'):
            DATASETS.build(config)

    def test_features_are_kept_and_labels_follow(self, filled, tmp_path):
        info = filled.get_data_info(0)
        stored = read_features(tmp_path / f'features/{info["img_id"]}.safetensors').float()
        # Centres of 4 cells in 3 rows and 6 columns.
        expected = stored[:, [0, 1, 1, 2]][:, :, [0, 2, 3, 5]]
        assert torch.equal(filled._features(0), expected)
        assert info['image_labels'] == ()

    def test_too_few_images(self, filled):
        filled.num_neighbours = 6
        with pytest.raises(UserError, match='at least 7 images, but the data set has 6'):
            write_neighbours(filled)

    @pytest.mark.parametrize('name', ['num_neighbours', 'grid', 'seed'])
    def test_arguments(self, scenes_root, tmp_path, name):
        with pytest.raises(ValueError, match=f'Expected `{name}` to be at least'):
            DATASETS.build({**pairs(scenes_root, tmp_path), name: -1})
