"""CRFPostProcess: still the segmentor, refined predictions, the image of file or input."""
from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.runner.checkpoint import load_state_dict
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image

from mmseg_dhr.models import DenseCRF
from mmseg_dhr.models.segmentors.refinement import image_from_inputs, inputs_to_rgb
from mmseg_dhr.ops import DenseCRFParams, dense_crf
from mmseg_dhr.utils import UserError

pytestmark = pytest.mark.usefixtures('mmseg_modules')
SIZE = (24, 40)


@pytest.fixture
def plain(tiny_model) -> ConfigDict:
    return tiny_model(num_classes=4).segmentor


@pytest.fixture
def photo(tmp_path) -> tuple[str, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / 'photo.png')
    return str(tmp_path / 'photo.png'), image


def build(config: dict, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(dict(type='CRFPostProcess', segmentor=copy.deepcopy(config), **options))
    model.decode_head.conv_seg.weight.data.normal_(0, 0.5)
    return model.eval()


def batch(image: np.ndarray, **meta) -> dict:
    """What a test pipeline gives: BGR."""
    bgr = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
    shape = dict(ori_shape=image.shape[:2], img_shape=image.shape[:2])
    return dict(inputs=[bgr], data_samples=[SegDataSample(metainfo={**shape, **meta})])


def test_checkpoints_and_attributes_are_the_segmentors(plain):
    expected = MODELS.build(plain)
    model = build(plain)
    assert type(model) is type(expected)
    assert list(model.state_dict()) == list(expected.state_dict())
    load_state_dict(model, expected.state_dict(), strict=True)
    assert all(torch.equal(value, expected.state_dict()[name])
               for name, value in model.state_dict().items())


@pytest.mark.parametrize('from_file', [True, False])
def test_predictions_are_those_of_the_crf(plain, photo, from_file):
    path, image = photo
    model = build(plain, crf=dict(iterations=3), min_score=0.0)
    with torch.no_grad():
        data = model.data_preprocessor(batch(image), False)
        logits = model.encode_decode(data['inputs'], [s.metainfo for s in data['data_samples']])
        (found, ) = model.test_step(batch(image, **(dict(img_path=path) if from_file else {})))
    expected = dense_crf(image, logits[0].softmax(0).numpy(), DenseCRFParams(iterations=3))
    np.testing.assert_allclose(found.seg_logits.data.softmax(0), expected, atol=1e-5)
    assert torch.equal(found.pred_sem_seg.data[0], torch.from_numpy(expected).argmax(0))
    assert not torch.equal(found.pred_sem_seg.data[0], logits[0].argmax(0))  # it did something


def test_a_preprocessor_at_the_top_of_the_config(plain, photo):
    """mmengine's Runner gives it to the model; configs of mmseg have it in both places."""
    own = plain.data_preprocessor
    other = dict(own, mean=[1.] * 3)
    assert build(plain, data_preprocessor=other).data_preprocessor.mean[0] == own.mean[0]
    del plain['data_preprocessor']
    assert build(plain, data_preprocessor=other).data_preprocessor.mean[0] == 1


def test_training_and_tensor_mode_are_left_alone(plain, photo):
    _, image = photo
    model, expected = build(plain), MODELS.build(plain).eval()
    expected.load_state_dict(model.state_dict())
    data = model.data_preprocessor(batch(image), False)
    with torch.no_grad():
        assert torch.equal(model(**data), expected(**data))
        assert torch.equal(model(data['inputs']), expected(data['inputs']))


def test_a_copy_and_positional_arguments(plain, photo):
    """mmengine's EMA copies models; some callers name no argument."""
    _, image = photo
    model = build(plain, crf=dict(iterations=1))
    twin = copy.deepcopy(model)
    data = model.data_preprocessor(batch(image), False)
    with torch.no_grad():
        (one, ) = model(**copy.deepcopy(data), mode='predict')
        (two, ) = twin(data['inputs'], data['data_samples'], 'predict')
        (three, ) = twin(data['inputs'], None, 'predict')
    assert torch.equal(one.seg_logits.data, two.seg_logits.data)
    assert torch.equal(one.seg_logits.data, three.seg_logits.data)


def test_around_a_dual_encoder_and_with_classes_dropped(tiny_model, photo):
    _, image = photo
    model = build(tiny_model(num_classes=4))
    model.segmentor.decode_head.conv_seg.bias.data = torch.tensor([0., 0., -50., 0.])
    (found, ) = model.test_step(batch(image))
    assert found.seg_logits.data.shape == (4, *SIZE)
    assert (found.seg_logits.data[2] < -27).all() and 2 not in found.pred_sem_seg.data


def test_one_class_alone_needs_no_image(plain, monkeypatch, photo):
    monkeypatch.setattr(DenseCRF, '__call__', lambda *_: pytest.fail('nothing to refine'))
    model = build(plain)
    model.decode_head.conv_seg.bias.data = torch.tensor([0., 90., 0., 0.])
    (found, ) = model.test_step(batch(photo[1], img_path='is/not/read.jpg'))
    assert (found.pred_sem_seg.data == 1).all()


@pytest.mark.parametrize('bgr_to_rgb', [True, False])
@pytest.mark.parametrize('normalised', [True, False])
def test_pixels_from_the_input(photo, bgr_to_rgb, normalised):
    _, image = photo
    values = dict(mean=[120., 110., 100.], std=[58., 57., 56.]) if normalised else {}
    preprocessor = MODELS.build(dict(type='SegDataPreProcessor', bgr_to_rgb=bgr_to_rgb, **values,
                                     test_cfg=dict(size=(32, 64))))
    data = preprocessor(batch(image), False)
    assert data['inputs'].shape[-2:] == (32, 64)
    rgb = inputs_to_rgb(data['inputs'].float(), preprocessor)
    expected = torch.from_numpy(image).permute(2, 0, 1).float()
    torch.testing.assert_close(rgb[0, :, :24, :40], expected, atol=1e-3, rtol=0)
    for flip in (None, 'horizontal', 'vertical'):
        inputs, meta = data['inputs'][0], dict(data['data_samples'][0].metainfo)
        if flip:
            inputs = inputs.clone()
            inputs[:, :24, :40] = inputs[:, :24, :40].flip(-1 if flip == 'horizontal' else -2)
            meta.update(flip=True, flip_direction=flip)
        found = image_from_inputs(inputs, meta, preprocessor, SIZE)
        assert found.dtype == torch.uint8
        np.testing.assert_array_equal(found.permute(1, 2, 0), image)


def test_pixels_of_a_resized_input():
    """A ramp survives halving and doubling but for its border."""
    preprocessor = MODELS.build(dict(type='SegDataPreProcessor', bgr_to_rgb=True))
    ramp = torch.arange(0, 200, 10.).expand(3, 6, 20)
    found = image_from_inputs(ramp, {}, preprocessor, (12, 40)).float()
    expected = torch.arange(-2.5, 197.5, 5.).expand(3, 12, 40)
    assert (found - expected)[..., 1:-1].abs().max() <= 0.5


@pytest.mark.parametrize(('options', 'kind', 'match'), [
    (dict(min_score=1.0), ValueError, r'min_score in \[0, 1\), but got 1.0'),
    (dict(crf=dict(iteration=3)), ValueError, "got .*'iteration'"),
    (dict(one=True), UserError, 'CRFPostProcess expects one output channel per class'),
])
def test_errors(plain, options, kind, match):
    if options.pop('one', False):
        plain.decode_head.update(num_classes=2, out_channels=1, threshold=0.5,
                                 loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
    with pytest.raises(kind, match=match):
        build(plain, **options)


def test_tta_refines_once(plain) -> None:
    wrapped = dict(type='CRFPostProcess', segmentor=copy.deepcopy(plain))
    with pytest.raises(UserError, match='each of them. Give it the segmentor alone'):
        MODELS.build(dict(type='CRFTTAModel', module=wrapped))
