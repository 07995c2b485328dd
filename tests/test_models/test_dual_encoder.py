from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.runner import load_checkpoint
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_dhr.datasets.transforms import LoadUSSFeatures
from mmseg_dhr.formats import write_features
from mmseg_dhr.models.propagation.dhr import PropagationResult, valid_mask
from mmseg_dhr.ops.geometry import AxisAffine
from mmseg_dhr.utils import UserError

CLASSES = 4
TAGS = [(1, ), (1, 3)]


@MODELS.register_module()
class CellMeanUSS(nn.Module):
    """Mean colour of each 4x4 cell in [0, 1], through a weight that would like to be trained."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1, bias=False)
        self.drop = nn.Dropout(.5)  # told apart in train mode
        self.mix.weight.data.copy_(torch.eye(3)[:, :, None, None])

    def forward(self, images):
        return (self.drop(self.mix(F.avg_pool2d(images / 255, 4))), )


class FixedPropagation:
    """Notes what it is given, and always finds the same masks."""

    def __init__(self, final, needs_shares=False):
        self.final = final
        self.needs_shares = needs_shares
        self.seen = None

    def __call__(self, batch, stages=False):
        self.seen = batch
        return PropagationResult(self.final, self.final)


@pytest.fixture
def build(tiny_model, mmseg_modules):
    """Builds a model in train mode; without CRF, which is tested elsewhere."""

    def make(**options):
        torch.manual_seed(0)
        config = tiny_model(**{**dict(
            num_classes=CLASSES, size=(32, 32), uss_encoder=dict(type='CellMeanUSS'),
            propagation=dict(type='DHRPropagation', num_classes=CLASSES, stride=2, refine=None)),
            **options})
        return MODELS.build(config).train()

    return make


def make_batch(model, tags=TAGS, sizes=((32, 32), (32, 32)), base=True, features=None):
    """A batch as the data loader gives it, preprocessed: (inputs, data samples)."""
    rng = torch.Generator().manual_seed(1)
    images, samples = [], []
    for i, (labels, size) in enumerate(zip(tags, sizes, strict=True)):
        images.append(torch.randint(0, 256, (3, *size), generator=rng, dtype=torch.uint8))
        sample = SegDataSample(metainfo=dict(image_labels=labels, img_shape=size))
        if base:
            mask = torch.randint(0, 2, (1, *size), generator=rng)
            sample.gt_sem_seg = PixelData(data=mask)
            sample.set_metainfo(dict(base_shares=np.array([.5, .5, 0, 0], np.float32)))
        if features is not None:
            sample.uss_features = PixelData(data=features[i])
        samples.append(sample)
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    return data['inputs'], data['data_samples']


def cross_entropy_by_hand(model, inputs, masks):
    logits = model.segmentor.decode_head(model.extract_feat(inputs))
    logits = F.interpolate(logits, size=masks.shape[-2:], mode='bilinear', align_corners=False)
    picked = logits.log_softmax(1).gather(1, masks.clamp(max=CLASSES - 1)[:, None])[:, 0]
    # mmseg divides by the number of all pixels
    return -(picked * (masks != 255)).sum() / masks.numel()


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


class TestClassShares:

    def test_given_to_a_propagation_that_needs_them(self, build) -> None:
        model = build()
        final = torch.zeros(2, 16, 16, dtype=torch.long)
        inputs, samples = make_batch(model, sizes=((32, 32), (16, 24)))
        model.propagation = FixedPropagation(final)
        model.loss(inputs, samples)
        assert model.propagation.seen.shares is None
        model.propagation = FixedPropagation(final, needs_shares=True)
        model.decode_head.dropout = nn.Dropout(.9)
        model.train()
        statistics = [b.clone() for b in model.decode_head.buffers()]
        features = model.extract_feat(inputs)
        shares = model._inputs_needed(inputs, features, model.cam_head(features), samples).shares
        assert all(map(torch.equal, statistics, model.decode_head.buffers()))
        assert all(part.training for part in model.decode_head.modules())
        model.decode_head.eval()
        logits = model.decode_head(features).detach()
        for row, (labels, height, width) in enumerate([([0, 1], 4, 4), ([0, 1, 3], 2, 3)]):
            expected = torch.zeros(CLASSES)
            inside = logits[row, labels, :height, :width]
            expected[labels] = inside.softmax(0).mean((1, 2))
            torch.testing.assert_close(shares[row], expected)
        model.eval()
        torch.testing.assert_close(model.class_shares(inputs, samples).sum(1), torch.ones(2))

    def test_modes_of_the_head_come_back_one_by_one(self, build) -> None:
        model = build()
        frozen = model.decode_head.convs.eval()
        model.class_shares(*make_batch(model))
        assert model.decode_head.training and not frozen.training

    def test_smoothing(self, build) -> None:
        model = build()
        model.propagation = FixedPropagation(torch.zeros(2, 16, 16, dtype=torch.long), True)
        inputs, samples = make_batch(model)
        given = torch.full((2, CLASSES), .25)
        seen = []
        model.propagate(inputs, samples, smooth=lambda *args: seen.append(args) or given)
        assert model.propagation.seen.shares is given
        assert seen[0][0] is samples
        torch.testing.assert_close(seen[0][1].sum(1), torch.ones(2))

    def test_no_tag_and_no_background(self, build) -> None:
        model = build(cam_head=dict(type='CAMHead', in_channels=64, num_classes=CLASSES,
                                    background_index=None))
        shares = model.class_shares(*make_batch(model, tags=[(), (0, 2)]))
        assert shares[0].tolist() == [0] * CLASSES
        assert shares[1, [1, 3]].tolist() == [0, 0] and shares[1].sum() == pytest.approx(1)

    def test_half_precision_still_trains_the_head(self, build) -> None:
        """Autocast caches weights: those cast without gradient must not reach the loss."""
        model = build()
        model.propagation = FixedPropagation(torch.ones(2, 16, 16, dtype=torch.long), True)
        with torch.autocast('cpu', torch.bfloat16):
            losses = model.loss(*make_batch(model))
        losses['decode.loss_ce'].backward()
        assert model.propagation.seen.shares.dtype == torch.float32
        for parameter in model.decode_head.parameters():
            assert parameter.grad is not None
        assert model.decode_head.conv_seg.weight.grad.abs().sum() > 0

    def test_a_head_without_a_map(self, build) -> None:
        model = build()
        model.decode_head.forward = lambda features: (features[-1], features[-1])
        with pytest.raises(UserError, match='one map of logits per class, but FCNHead'):
            model.class_shares(*make_batch(model))


class TestUSSFeatures:

    def test_cached_equal_online(self, build, tmp_path) -> None:
        """Un-augmented images of several sizes, padded to one batch."""
        model = build()
        model.propagation = FixedPropagation(torch.zeros(2, 16, 16, dtype=torch.long))
        sizes = ((24, 32), (32, 20))
        inputs, samples = make_batch(model, sizes=sizes)
        model.loss(inputs, samples)
        online = model.propagation.seen.uss
        images = model.inputs_to_rgb(inputs)
        load = LoadUSSFeatures(str(tmp_path), stride=4)
        for i, (image, sample, size) in enumerate(zip(images, samples, sizes, strict=True)):
            whole = image[None, :, :size[0], :size[1]]
            write_features(tmp_path / f'{i}.safetensors', model.uss_encoder(whole)[0][0])
            loaded = load(dict(img=np.zeros((*size, 3)), img_id=str(i), ori_shape=size,
                               geometry=AxisAffine.identity()))
            sample.uss_features = PixelData(data=loaded['uss_features'])
            sample.set_metainfo(dict(uss_stride=loaded['uss_stride']))
        model._uss = ()
        model.loss(inputs, samples)
        cached = model.propagation.seen.uss
        assert cached.shape == online.shape == (2, 3, 8, 8)
        for i, (height, width) in enumerate(sizes):
            inside = i, slice(None), slice(height // 4), slice(width // 4)
            # float16 in the cache
            torch.testing.assert_close(cached[inside], online[inside], rtol=1e-3, atol=1e-4)

    def test_cells_stay_in_step_with_the_padded_batch(self, build, tmp_path) -> None:
        """A feature that says where it is, of images whose sides are no multiple of the stride."""
        model = build()
        model.propagation = FixedPropagation(torch.zeros(2, 16, 16, dtype=torch.long))
        sizes = ((30, 27), (21, 24))  # the crop is 32x32: nothing fills it
        inputs, samples = make_batch(model, sizes=sizes)
        load = LoadUSSFeatures(str(tmp_path), stride=4)
        for i, ((height, width), sample) in enumerate(zip(sizes, samples, strict=True)):
            places = torch.meshgrid(torch.arange(height) + .5, torch.arange(width) + .5,
                                    indexing='ij')
            write_features(tmp_path / f'{i}.safetensors', torch.stack(places))
            loaded = load(dict(img=np.zeros((height, width, 3)), img_id=str(i),
                               ori_shape=(height, width), geometry=AxisAffine.identity()))
            sample.uss_features = PixelData(data=loaded['uss_features'])
            sample.set_metainfo(dict(uss_stride=loaded['uss_stride']))
        model.loss(inputs, samples)
        assert model.propagation.seen.uss.shape == (2, 2, 8, 8)
        centres = torch.arange(8) * 4 + 2.
        for uss, (height, width) in zip(model.propagation.seen.uss, sizes, strict=True):
            rows, columns = -(-height // 4), -(-width // 4)
            torch.testing.assert_close(uss[0, :rows, 0], centres[:rows].clamp(max=height - .5))
            torch.testing.assert_close(uss[1, 0, :columns], centres[:columns].clamp(max=width - .5))

    def test_none_at_all(self, build) -> None:
        model = build(uss_encoder=None)
        with pytest.raises(UserError, match='`uss_encoder` in the model config.*LoadUSSFeatures'):
            model.loss(*make_batch(model))


class TestSurface:

    def test_predict_is_the_wrapped_segmentor_s(self, build) -> None:
        model = build(uss_encoder=None, propagation=None).eval()
        inputs, _ = make_batch(model)
        metas = [dict(ori_shape=(40, 48), img_shape=(32, 32), pad_shape=(32, 32),
                      padding_size=[0, 0, 0, 0])] * 2
        wrapped, plain = (
            part.predict(inputs, [SegDataSample(metainfo=dict(meta)) for meta in metas])
            for part in (model, model.segmentor))
        for ours, theirs in zip(wrapped, plain, strict=True):
            assert ours.pred_sem_seg.data.shape == (1, 40, 48)
            assert torch.equal(ours.pred_sem_seg.data, theirs.pred_sem_seg.data)
            assert torch.equal(ours.seg_logits.data, theirs.seg_logits.data)
        assert torch.equal(model(inputs, mode='tensor'), model.segmentor(inputs, mode='tensor'))

    def test_channels_last_is_a_layout(self, build) -> None:
        images = torch.randn(2, 3, 32, 32)
        maps = []
        for fast in (False, True):
            model = build(channels_last=fast).eval()
            weight = model.segmentor.backbone.layer1[0].conv1.weight  # 3x3: the two layouts differ
            assert weight.is_contiguous(memory_format=torch.channels_last) is fast
            maps.append(model(images))
        torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-3)

    def test_prediction_does_not_touch_the_uss_encoder(self, build) -> None:
        model = build().eval()
        model.uss_encoder.forward = None
        inputs, samples = make_batch(model)
        assert len(model.predict(inputs)) == 2

    def test_what_mmseg_asks_of_a_segmentor(self, build) -> None:
        model = build()
        assert model.num_classes == model.out_channels == CLASSES
        assert model.align_corners is False
        assert model.decode_head is model.segmentor.decode_head

    @pytest.mark.parametrize('bgr_to_rgb', [True, False])
    def test_pixels_there_and_back(self, build, tiny_model, bgr_to_rgb) -> None:
        config = tiny_model(CLASSES, (8, 8))
        config['data_preprocessor'] = dict(bgr_to_rgb=bgr_to_rgb)
        model = MODELS.build(config)
        rgb = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
        inputs = model.rgb_to_inputs(rgb)
        torch.testing.assert_close(model.inputs_to_rgb(inputs), rgb.float(), rtol=0, atol=1e-4)
        # and what the data preprocessor makes of the BGR image that mmcv loads
        samples = [SegDataSample(), SegDataSample()]
        data = model.data_preprocessor(dict(inputs=list(rgb.flip(1)), data_samples=samples), True)
        torch.testing.assert_close(inputs, data['inputs'])

    def test_data_preprocessor_settings_are_replaced(self, build) -> None:
        model = build(data_preprocessor=dict(size=(40, 48)))
        inputs, _ = make_batch(model)
        assert inputs.shape == (2, 3, 40, 48)
        assert model.segmentor.data_preprocessor is model.data_preprocessor

    def test_uss_encoder_stays_in_eval_mode(self, build) -> None:
        model = build().train()
        assert not any(m.training for m in model.uss_encoder.modules())
        assert model.segmentor.training and model.cam_head.training
        assert not model.eval().segmentor.training
        model.requires_grad_(True)
        assert not model.uss_encoder.mix.weight.requires_grad

    def test_uss_encoder_moves_along(self, build) -> None:
        model = build()
        nn.Sequential(model).to('meta')
        assert {p.device.type for p in model.uss_encoder.parameters()} == {'meta'}
        model = build().double()
        assert model.uss_encoder.mix.weight.dtype == torch.float64
        twin = copy.deepcopy(model).half()
        assert twin.uss_encoder.mix.weight.dtype == torch.float16
        assert model.uss_encoder.mix.weight.dtype == torch.float64

    def test_optimizer_does_not_see_the_uss_encoder(self, build, capsys) -> None:
        model = build()
        capsys.readouterr()
        for keys in (None, dict(custom_keys=dict(cam_head=dict(lr_mult=10.)))):
            wrapper = build_optim_wrapper(model, dict(
                optimizer=dict(type='SGD', lr=.1), paramwise_cfg=keys))
            assert 'requires_grad=False' not in ''.join(capsys.readouterr())
            given = {id(p) for group in wrapper.optimizer.param_groups for p in group['params']}
            assert given == {id(p) for p in model.parameters()}
            assert id(model.uss_encoder.mix.weight) not in given

    def test_phases(self, build) -> None:
        model = build(propagation=None)
        with pytest.raises(ValueError, match="'warmup', 'online', 'given'.*'later'"):
            model.set_phase('later')
        with pytest.raises(ValueError, match='needs a `propagation`'):
            model.set_phase('online')
        with pytest.raises(UserError, match='no `propagation`'):
            model.propagate(*make_batch(model))
        assert build().phase == 'online'

    def test_needs_pixels_that_can_be_read_back(self, tiny_model, mmseg_modules) -> None:
        config = tiny_model()
        config['segmentor']['data_preprocessor'] = dict(type='SegDataPreProcessor', size=(8, 8))
        with pytest.raises(UserError, match='`mean` and `std`'):
            MODELS.build(config)


class TestCheckpoint:

    def save(self, model, path, drop=()) -> str:
        state = {k: v for k, v in model.state_dict().items() if k not in drop}
        torch.save(dict(state_dict=state, meta={}), path)
        return str(path)

    def test_has_no_uss_weights(self, build) -> None:
        model = build()
        assert model.uss_encoder.mix.weight is not None
        for names in (model.state_dict(), nn.Sequential(model).state_dict(),
                      dict(model.named_parameters()), dict(model.named_buffers())):
            assert not any('mix' in name for name in names)

    def test_loads_completely(self, build, tmp_path, capsys) -> None:
        source = build()
        file = self.save(source, tmp_path / 'weights.pth')
        target = copy.deepcopy(source)
        for parameter in target.parameters():
            parameter.data.add_(1)
        uss = target.uss_encoder.mix.weight.clone()
        capsys.readouterr()
        load_checkpoint(target, file)
        captured = capsys.readouterr()
        assert 'missing' not in captured.out + captured.err
        assert 'unexpected' not in captured.out + captured.err
        for name, value in source.state_dict().items():
            assert torch.equal(target.state_dict()[name], value)
        assert torch.equal(target.uss_encoder.mix.weight, uss)
        nn.Sequential(target).load_state_dict(nn.Sequential(source).state_dict(), strict=True)

    def test_a_missing_key_is_still_reported(self, build, tmp_path, capsys) -> None:
        model = build()
        file = self.save(model, tmp_path / 'weights.pth', drop=['cam_head.classifier.weight'])
        load_checkpoint(model, file)
        assert 'missing keys in source state_dict: cam_head.classifier.weight' in \
            capsys.readouterr().out.replace('\n', '')

    def test_another_class_count(self, build, tmp_path) -> None:
        file = self.save(build(), tmp_path / 'weights.pth')
        other = build(cam_head=dict(type='CAMHead', in_channels=64, num_classes=7),
                      num_classes=7)
        with pytest.raises(UserError, match=r'conv_seg\.weight is \(4, .*expects \(7, .*7 classes'):
            load_checkpoint(other, file)
        cam_only = build(cam_head=dict(type='CAMHead', in_channels=64, num_classes=7))
        with pytest.raises(UserError, match=r'cam_head\.classifier\.weight is \(3, .*\(6, '):
            load_checkpoint(cam_only, file)
