"""Mask2Former, which is no mmseg decode head, inside DualEncoderSegmentor."""
from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import multi_scale_deform_attn
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_dhr.models.propagation.dhr import PropagationResult

CLASSES = 4
TAGS = [(1, ), (1, 3)]
STOCK = 'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py'


@pytest.fixture(scope='module')
def stock() -> ConfigDict:
    """mmseg's own Mask2Former, all its widths cut down, on a narrow ResNet."""
    model = get_config(STOCK).model
    model.data_preprocessor.size = (32, 32)
    model.backbone = dict(type='ResNetV1c', depth=18, base_channels=8, stem_channels=8,
                          norm_cfg=dict(type='BN'))
    head = model.decode_head
    head.update(in_channels=[8, 16, 32, 64], feat_channels=32, out_channels=32, num_queries=6,
                num_classes=CLASSES)
    head.loss_cls.class_weight = [1.] * CLASSES + [.1]
    head.train_cfg.num_points = 96
    encoder, decoder = head.pixel_decoder.encoder, head.transformer_decoder
    encoder.num_layers, decoder.num_layers = 1, 2
    for part in (head, head.pixel_decoder):
        part.positional_encoding.num_feats = 16
    for layer in (encoder.layer_cfg, decoder.layer_cfg):
        for part in ('self_attn_cfg', 'cross_attn_cfg', 'ffn_cfg'):
            if part in layer:
                layer[part].embed_dims = 32
    encoder.layer_cfg.ffn_cfg.feedforward_channels = 32
    decoder.layer_cfg.ffn_cfg.feedforward_channels = 32
    return model


@pytest.fixture
def build(stock, mmseg_modules):
    """Builds the model in train mode; arguments replace its settings."""
    def make(**options):
        torch.manual_seed(0)
        model = MODELS.build(ConfigDict({**dict(
            type='DualEncoderSegmentor', segmentor=copy.deepcopy(stock),
            cam_head=dict(type='CAMHead', in_channels=64, num_classes=CLASSES),
            uss_encoder=dict(type='ColorTextureUSS', frequencies=8),
            propagation=dict(type='DHRPropagation', num_classes=CLASSES, refine=None)),
            **options}))
        model.init_weights()
        return model.train()
    return make


def make_batch(model, masks=None, sizes=((32, 32), (32, 32))):
    rng = torch.Generator().manual_seed(1)
    images, samples = [], []
    for i, (labels, size) in enumerate(zip(TAGS, sizes, strict=True)):
        images.append(torch.randint(0, 256, (3, *size), generator=rng, dtype=torch.uint8))
        samples.append(SegDataSample(metainfo=dict(image_labels=labels, img_shape=size)))
        if masks is not None:
            samples[-1].gt_sem_seg = PixelData(data=masks[i][None])
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    return data['inputs'], data['data_samples']


def given(model, name):
    """Masks at full resolution, or at the stride of M_dh, that are difficult for the head."""
    masks = dict(
        ignored=torch.full((2, 32, 32), 255),
        absent=torch.zeros(2, 32, 32, dtype=torch.long),
        mixed=torch.stack([torch.full((32, 32), 255), torch.zeros(32, 32).long()]),
        pixel=torch.zeros(2, 32, 32).long().index_put_(
            (torch.tensor([0]), torch.tensor([31]), torch.tensor([31])), torch.tensor(3)))
    return masks[name]


def backward(model, losses):
    total, log = model.parse_losses(losses)
    assert all(value.isfinite().all() for value in log.values())
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


class TestTraining:

    def test_m_dh_at_its_stride_becomes_binary_masks(self, build, monkeypatch) -> None:
        model = build()
        inputs, samples = make_batch(model, sizes=((32, 32), (20, 28)))
        final = model.propagate(inputs, samples).final
        assert final.shape == (2, 8, 8) and final.unique().numel() > 2
        seen = []
        loss_by_feat = model.decode_head.loss_by_feat
        monkeypatch.setattr(model.decode_head, 'loss_by_feat',
                            lambda *args: seen.extend(args[2]) or loss_by_feat(*args))
        losses = model.loss(inputs, samples)
        for mask, instances in zip(final, seen, strict=True):
            labels = [label for label in mask.unique().tolist() if label != 255]
            assert instances.labels.tolist() == labels
            assert torch.equal(instances.masks, torch.stack([mask == c for c in labels]).long())
        assert {'loss_cls', 'decode.loss_mask', 'decode.loss_dice', 'decode.d0.loss_cls',
                'dhr/vanished'} < set(losses)
        backward(model, losses)

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_mixed_precision(self, build, dtype) -> None:
        if dtype is torch.float16 and torch.__version__ < (2, 3):
            pytest.skip('torch < 2.3 knows bfloat16 alone on the CPU')
        model = build()
        with torch.autocast('cpu', dtype):
            losses = model.loss(*make_batch(model))
        backward(model, losses)

    @pytest.mark.parametrize('name', ['ignored', 'absent', 'mixed', 'pixel'])
    @pytest.mark.parametrize('stride', [1, 4])
    def test_masks_without_a_class(self, build, name, stride) -> None:
        model = build()
        final = given(model, name)[:, ::stride, ::stride]
        model.propagation = lambda batch: PropagationResult(final, given(model, name))
        losses = model.loss(*make_batch(model))
        if name == 'ignored':
            assert losses['decode.loss_mask'] == losses['decode.loss_dice'] == 0
        else:
            assert losses['decode.loss_mask'] > 0
        backward(model, losses)

    def test_finished_masks_train_as_without_the_wrapper(self, build) -> None:
        """No weight on the tags: what MMSegmentation itself would train on."""
        model = build(propagation=None, uss_encoder=None, cam_head=dict(
            type='CAMHead', in_channels=64, num_classes=CLASSES, loss_weight=0.))
        model.eval()  # the random points alone are left, not dropout
        inputs, samples = make_batch(model, torch.randint(0, CLASSES, (2, 32, 32)))
        torch.manual_seed(3)
        plain, _ = model.parse_losses(model.segmentor.loss(inputs, samples))
        torch.manual_seed(3)
        wrapped, _ = model.parse_losses(model.loss(inputs, samples))
        assert plain > 1
        torch.testing.assert_close(wrapped, plain)

    def test_deformable_attention_needs_no_compiled_operator(self, build, monkeypatch) -> None:
        calls = []
        run = multi_scale_deform_attn.multi_scale_deformable_attn_pytorch
        monkeypatch.setattr(multi_scale_deform_attn, 'multi_scale_deformable_attn_pytorch',
                            lambda *args: calls.append(args) or run(*args))
        model = build().eval()
        with torch.no_grad():
            result, = model.predict(torch.zeros(1, 3, 40, 48))
        assert result.seg_logits.data.shape == (CLASSES, 40, 48)
        assert len(calls) == 1


class TestClassShares:

    def by_hand(self, model, inputs, row, known, height, width):
        """Sum over the queries of class times mask, in the valid part."""
        head = model.decode_head
        features = model.extract_feat(inputs)
        scores, masks = head(features, [SegDataSample()] * 2)
        classes = scores[-1][row].softmax(-1)[:, :-1]  # (queries, classes)
        pixels = masks[-1][row].sigmoid()  # (queries, h, w) at stride 4
        maps = torch.einsum('qc,qhw->chw', classes, pixels)
        expected = torch.zeros(CLASSES)
        maps = maps[known, :height, :width]
        expected[known] = (maps / maps.sum(0)).mean((1, 2))
        return expected

    @torch.no_grad()
    def test_shares_of_the_queries_sum(self, build) -> None:
        model = build().eval()
        inputs, samples = make_batch(model, sizes=((32, 32), (16, 24)))
        shares = model.class_shares(inputs, samples)
        for row, (known, height, width) in enumerate([([0, 1], 8, 8), ([0, 1, 3], 4, 6)]):
            torch.testing.assert_close(
                shares[row], self.by_hand(model, inputs, row, known, height, width))

    def test_a_propagation_that_needs_them(self, build) -> None:
        model = build(propagation=dict(type='DHRPropagation', num_classes=CLASSES,
                                       marginal='shares', refine=None))
        with torch.autocast('cpu', torch.bfloat16):
            losses = model.loss(*make_batch(model))
        backward(model, losses)

    @torch.no_grad()
    def test_mask_former(self, build) -> None:
        """Its head reads the input's shape as well."""
        model = build().eval()
        mask_former = MODELS.get('MaskFormerHead')

        class Head(mask_former):

            def __init__(self):
                torch.nn.Module.__init__(self)
                self.num_queries = 5
                self.scores = torch.randn(2, 5, CLASSES + 1), torch.randn(2, 5, 8, 8)

            def forward(self, x, samples):
                assert [s.batch_input_shape for s in samples] == [(8, 8)] * 2
                return [self.scores[0]], [self.scores[1]]

        model.segmentor.decode_head = Head()
        shares = model.class_shares(*make_batch(model))
        scores, masks = model.decode_head.scores
        maps = torch.einsum('qc,qhw->chw', scores[0].softmax(-1)[:, :2], masks[0].sigmoid())
        torch.testing.assert_close(shares[0, :2], (maps / maps.sum(0)).mean((1, 2)))
        torch.testing.assert_close(shares.sum(1), torch.ones(2))
        assert F.relu(-shares).sum() == 0 and shares[0, 2:].tolist() == [0, 0]
