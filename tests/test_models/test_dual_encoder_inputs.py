"""What the propagation is given: class shares and USS features."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from torch import nn

from mmseg_dhr.datasets.transforms import LoadUSSFeatures
from mmseg_dhr.formats import write_features
from mmseg_dhr.ops.geometry import AxisAffine
from mmseg_dhr.utils import UserError
from tests.test_models.small_dual_encoder import (
    CLASSES,
    FixedPropagation,
    make_batch,
)


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
