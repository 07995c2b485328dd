"""What a DualEncoderSegmentor is from outside: interface, modes, checkpoints."""
from __future__ import annotations

import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_dhr.utils import UserError
from tests.test_models.small_dual_encoder import (
    CLASSES,
    make_batch,
)


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
