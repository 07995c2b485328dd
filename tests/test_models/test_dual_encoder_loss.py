"""What trains the network: losses, figures, a teacher."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import revert_sync_batchnorm
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_dhr.models.propagation.dhr import valid_mask
from mmseg_dhr.utils import UserError
from tests.test_models.small_dual_encoder import (
    CLASSES,
    TAGS,
    FixedPropagation,
    cross_entropy_by_hand,
    make_batch,
)


class TestLoss:

    def test_base_samples_of_weak_shot_data_keep_their_truth(self, build) -> None:
        model = build()
        model.decode_head.dropout_ratio = 0
        inputs, samples = make_batch(model)
        found = torch.full((2, 16, 16), 3)
        model.propagation = FixedPropagation(found)
        truth = samples[0].gt_sem_seg.data[:, 1::2, 1::2]  # the middle of each cell
        for is_novel, expected in (((False, True), torch.cat([truth, found[1:]])),
                                   ((True, True), found), ((None, None), found)):
            for sample, novel in zip(samples, is_novel, strict=True):
                sample.set_metainfo({} if novel is None else dict(is_novel=novel))
            model.eval()
            loss = model.loss(inputs, samples)['decode.loss_ce']
            torch.testing.assert_close(loss, cross_entropy_by_hand(model, inputs, expected))

    def test_warmup_trains_on_tags_alone(self, build) -> None:
        model = build()
        model.set_phase('warmup')
        inputs, samples = make_batch(model, base=False)
        losses = model.loss(inputs, samples)
        assert set(losses) == {'loss_cls', 'acc_cls'}
        logits = model.cam_head(model.extract_feat(inputs)).mean((2, 3))
        tags = torch.tensor([[1., 0, 0], [1, 0, 1]])
        torch.testing.assert_close(losses['loss_cls'],
                                   F.binary_cross_entropy_with_logits(logits, tags))
        losses['loss_cls'].backward()
        assert model.cam_head.classifier.weight.grad.abs().sum() > 0
        assert model.segmentor.backbone.stem[0].weight.grad.abs().sum() > 0
        assert all(p.grad is None for p in model.decode_head.parameters())

    def test_m_dh_is_what_supervises(self, build) -> None:
        model = build()
        inputs, samples = make_batch(model)
        expected = model.propagate(inputs, samples).final
        assert expected.unique().numel() > 1
        torch.testing.assert_close(model.loss(inputs, samples)['decode.loss_ce'],
                                   cross_entropy_by_hand(model, inputs, expected))
        final = torch.randint(0, CLASSES, (2, 16, 16))
        final[0, :4] = 255
        model.propagation = FixedPropagation(final)
        torch.testing.assert_close(model.loss(inputs, samples)['decode.loss_ce'],
                                   cross_entropy_by_hand(model, inputs, final))

    def test_propagation_sees_the_network(self, build) -> None:
        model = build(wss_indices=(1, ))
        model.propagation = FixedPropagation(torch.zeros(2, 16, 16, dtype=torch.long))
        inputs, samples = make_batch(model, sizes=((32, 32), (20, 28)))
        model.loss(inputs, samples)
        seen = model.propagation.seen
        features = model.extract_feat(inputs)
        assert seen.tags == TAGS
        assert [tuple(size) for size in seen.sizes] == [(32, 32), (20, 28)]
        assert len(seen.wss) == 1 and torch.equal(seen.wss[0], features[1])
        assert torch.equal(seen.uss, model.uss_encoder(seen.images)[0])
        assert torch.equal(seen.base, torch.stack([s.gt_sem_seg.data[0] for s in samples]))
        assert seen.base[1, 20:].unique().tolist() == [255]
        maps = model.cam_head(features).relu()
        inside = valid_mask(inputs, seen.sizes, maps.shape[-2:])
        shown = maps[1, 2] * inside[1]
        torch.testing.assert_close(seen.cam[1, 2], shown / shown.max().clamp_min(1e-5))
        assert seen.cam[0, 1:].abs().max() == 0  # no tag, no map
        assert not any(t.requires_grad for t in (seen.cam, seen.uss, *seen.wss))

    @pytest.mark.parametrize('padding', [0., 9.])
    def test_padding_does_not_scale_the_cam(self, build, padding):
        model = build()
        inputs, samples = make_batch(model, sizes=((32, 32), (32, 20)))
        features = model.extract_feat(inputs)
        maps = torch.full_like(model.cam_head(features), 2.)
        narrow = maps.shape[-1] * 20 // 32
        maps[1, :, :, narrow:] = padding
        cam = model._propagation_inputs(inputs, features, maps, samples, None).cam[1, 0]
        assert (cam[:, :narrow] == 1).all() and (cam[:, narrow + 1:] == 0).all()

    def test_m_base_of_another_loader(self, build):
        model = build()
        inputs, samples = make_batch(model)
        samples[1].pop('base_shares')
        with pytest.raises(UserError, match='its M_base came without `base_shares`'):
            model.loss(inputs, samples)

    def test_gradients_reach_all_but_the_uss_encoder(self, build) -> None:
        model = build()
        inputs, samples = make_batch(model)
        losses = model.loss(inputs, samples)
        sum(value for name, value in losses.items() if 'loss' in name).backward()
        for part in (model.segmentor.backbone.stem[0], model.cam_head.classifier,
                     model.decode_head.conv_seg):
            assert part.weight.grad.abs().sum() > 0
        assert model.uss_encoder.mix.weight.grad is None
        assert not model.uss_encoder.mix.weight.requires_grad

    def test_given_masks_are_used_as_they_are(self, build) -> None:
        model = build(propagation=None)
        assert model.phase == 'given'
        inputs, samples = make_batch(model)
        losses = model.loss(inputs, samples)
        masks = torch.stack([s.gt_sem_seg.data[0] for s in samples])
        torch.testing.assert_close(losses['decode.loss_ce'],
                                   cross_entropy_by_hand(model, inputs, masks))

    def test_given_without_masks_trains_on_tags_alone(self, build) -> None:
        model = build(propagation=None)
        assert set(model.loss(*make_batch(model, base=False))) == {'loss_cls', 'acc_cls'}

    def test_padding_is_no_part_of_a_tag_logit(self, build) -> None:
        model = build()
        inputs, samples = make_batch(model, sizes=((32, 32), (16, 8)))
        losses = model.loss(inputs, samples)
        maps = model.cam_head(model.extract_feat(inputs))  # output stride 8
        logits = torch.stack([maps[0].mean((1, 2)), maps[1, :, :2, :1].mean((1, 2))])
        tags = torch.tensor([[1., 0, 0], [1, 0, 1]])
        torch.testing.assert_close(losses['loss_cls'],
                                   F.binary_cross_entropy_with_logits(logits, tags))

    def test_heads_of_any_kind(self, build, tiny_model) -> None:
        aspp = dict(type='DepthwiseSeparableASPPHead', dilations=(1, 2), c1_in_channels=8,
                    c1_channels=4)
        config = tiny_model(CLASSES, (32, 32), head=aspp)
        config['segmentor']['decode_head'].pop('num_convs')
        fcn = dict(type='FCNHead', channels=4, num_convs=1, num_classes=CLASSES, dropout_ratio=0)
        config['segmentor']['auxiliary_head'] = [dict(fcn, in_channels=32, in_index=2),
                                                 dict(fcn, in_channels=16, in_index=1)]
        model = MODELS.build(config)
        losses = model.loss(*make_batch(model))
        assert {name for name in losses if name.endswith('loss_ce')} == \
            {'decode.loss_ce', 'aux_0.loss_ce', 'aux_1.loss_ce'}
        losses['aux_1.loss_ce'].backward()
        assert model.segmentor.auxiliary_head[1].conv_seg.weight.grad.abs().sum() > 0

    def test_synchronised_batch_norm_on_a_cpu(self, build) -> None:
        model = build(norm='SyncBN')
        assert any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
        model = revert_sync_batchnorm(model)
        losses = model.loss(*make_batch(model))
        assert all(value.isfinite() for value in losses.values())

    @pytest.mark.parametrize('phase', ['warmup', 'online', 'given'])
    def test_missing_tags(self, build, phase) -> None:
        model = build()
        model.set_phase(phase)
        inputs, samples = make_batch(model)
        plain = SegDataSample(metainfo=dict(img_shape=(32, 32), img_path='some/where.jpg'))
        with pytest.raises(UserError, match=r'where\.jpg.*TaggedDataset.*PackTaggedInputs'):
            model.loss(inputs, [samples[0], plain])


class TestFigures:

    def test_are_logged_online_alone(self, build) -> None:
        model = build()
        inputs, samples = make_batch(model, sizes=((32, 32), (16, 32)))
        final = torch.full((2, 16, 16), 255)
        final[0, :4] = 0
        final[0, 4:8] = 1
        model.propagation = FixedPropagation(final)
        losses = model.loss(inputs, samples)
        base = torch.stack([s.gt_sem_seg.data[0] for s in samples])[0, 1:16:2, 1::2]
        # M_init is M_dh here, tags are 1 and 1, 3; half of the second image is padding
        expected = {'dhr/vanished': 0, 'dhr/background': .5, 'dhr/ignored': 1 - 8 / 24,
                    'dhr/changed': (base != final[0, :8]).float().mean().item()}
        figures = {k: v.item() for k, v in losses.items() if k.startswith('dhr/')}
        assert figures == pytest.approx(expected)
        loss, log = model.parse_losses(losses)
        assert set(figures) < set(log)
        torch.testing.assert_close(loss, losses['loss_cls'] + losses['decode.loss_ce'])
        for phase in ('warmup', 'given'):
            model.set_phase(phase)
            assert not any('dhr' in name for name in model.loss(inputs, samples))


class TestTeacher:

    def pair(self, build):
        """A student and a teacher of other weights."""
        student, teacher = build(), build()
        for parameter in teacher.parameters():
            parameter.data.mul_(1.5).add_(.02)
        student.set_teacher(teacher)
        return student, teacher

    def test_its_masks_supervise(self, build) -> None:
        student, teacher = self.pair(build)
        inputs, samples = make_batch(student)
        assert not teacher.training and student.training
        masks = teacher.propagate(inputs, samples).final
        assert not torch.equal(masks, student.propagate(inputs, samples).final)
        before = {k: v.clone() for k, v in teacher.state_dict().items()}
        losses = student.loss(inputs, samples)
        torch.testing.assert_close(losses['decode.loss_ce'],
                                   cross_entropy_by_hand(student, inputs, masks))
        losses['decode.loss_ce'].backward()
        assert student.decode_head.conv_seg.weight.grad.abs().sum() > 0
        assert all(p.grad is None for p in teacher.parameters())
        assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
        student.set_teacher(None)
        own = student.propagate(inputs, samples).final
        torch.testing.assert_close(student.loss(inputs, samples)['decode.loss_ce'],
                                   cross_entropy_by_hand(student, inputs, own))

    def test_is_no_part_of_the_student(self, build) -> None:
        student, teacher = self.pair(build)
        alone = build()
        assert list(student.state_dict()) == list(alone.state_dict())
        assert len(list(student.modules())) == len(list(alone.modules()))
        student.train()
        assert not teacher.training
        student.double()
        assert teacher.decode_head.conv_seg.weight.dtype == torch.float32
        assert teacher.uss_encoder is student.uss_encoder and student.teacher is teacher
