"""CRFTTAModel: the merge by hand, what is dropped, and that the CRF is called as it should be."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.structures import PixelData
from mmseg.models.segmentors import SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image

from mmseg_dhr.models.segmentors import tta
from mmseg_dhr.models.segmentors.refinement import kept_classes
from mmseg_dhr.ops import DenseCRFParams, dense_crf
from mmseg_dhr.utils import UserError

SIZE = (9, 12)


class Segmentor(BaseModel):
    """What a TTA model asks of the segmentor that it wraps."""

    def __init__(self, out_channels: int = 4) -> None:
        super().__init__()
        self.out_channels = out_channels

    def forward(self, inputs, data_samples=None, mode='predict'):
        return data_samples


def build(out_channels: int = 4, **kwargs) -> tta.CRFTTAModel:
    return MODELS.build(dict(type='CRFTTAModel', module=Segmentor(out_channels), **kwargs))


def predictions(logits: list[torch.Tensor], **meta) -> list[SegDataSample]:
    """One sample per augmentation; only the first is unflipped."""
    samples = []
    for i, one in enumerate(logits):
        sample = SegDataSample(metainfo=dict(ori_shape=SIZE, flip=i > 0, img_path='x.jpg', **meta))
        sample.seg_logits = PixelData(data=one)
        sample.gt_sem_seg = PixelData(data=torch.full((1, *SIZE), i))
        samples.append(sample)
    return samples


def random_logits(count: int = 3, classes: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(classes, *SIZE, generator=generator) for _ in range(count)]


@pytest.fixture
def photo(tmp_path) -> tuple[str, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / 'photo.png')
    return str(tmp_path / 'photo.png'), image


def test_without_dropping_it_is_the_model_of_mmseg():
    logits = random_logits()
    (ours, ) = build(min_score=0.0).merge_preds([predictions(logits)])
    (theirs, ) = SegTTAModel(module=Segmentor()).merge_preds([predictions(logits)])
    assert torch.equal(ours.pred_sem_seg.data, theirs.pred_sem_seg.data)
    expected = sum(one.softmax(0) for one in logits) / 3
    torch.testing.assert_close(ours.seg_logits.data, expected)


def test_unlikely_classes_are_dropped():
    logits = random_logits()
    for one in logits:
        one[2] = -9.0
    (merged, ) = build().merge_preds([predictions(logits)])
    assert merged.seg_logits.data.shape == (4, *SIZE)
    assert (merged.seg_logits.data[2] == 0).all()
    assert 2 not in merged.pred_sem_seg.data
    assert merged.pred_sem_seg.data.shape == (1, *SIZE)


def test_kept_classes_by_hand():
    probs = torch.tensor([[[0.5, 0.9]], [[0.05, 0.0]], [[0.051, 0.0]]])
    assert kept_classes(probs, 0.05).tolist() == [0, 2]
    # Whatever the threshold, something has to be predicted.
    assert kept_classes(probs, 0.99).tolist() == [0]


def test_underflown_pixels_do_not_fall_to_a_dropped_class():
    """Class 0 is dropped; a pixel where all kept scores are zero must not become class 0."""
    logits = torch.zeros(3, *SIZE)
    logits[1], logits[2], logits[0] = 50.0, 40.0, -100.0
    (merged, ) = build(3, min_score=0.9).merge_preds([predictions([logits])])
    assert (merged.pred_sem_seg.data == 1).all()


def test_metainfo_and_truth_are_those_of_the_first_augmentation():
    (merged, ) = build().merge_preds([predictions(random_logits(), image_labels=(1, 2))])
    assert merged.metainfo['img_path'] == 'x.jpg'
    assert merged.metainfo['ori_shape'] == SIZE
    assert merged.metainfo['image_labels'] == (1, 2)
    assert (merged.gt_sem_seg.data == 0).all()


def test_images_do_not_mix():
    first, second = random_logits()[:1], random_logits()[1:]
    merged = build().merge_preds([predictions(first), predictions(second)])
    (alone, ) = build().merge_preds([predictions(second)])
    assert torch.equal(merged[1].seg_logits.data, alone.seg_logits.data)


def test_crf_gets_kept_classes_and_the_original_image(monkeypatch, photo):
    path, image = photo
    calls = []

    def fake(self, images, scores, class_mask, sizes):
        calls.append((self.params, images, scores, class_mask, sizes))
        return scores.flip(1)

    monkeypatch.setattr(tta.DenseCRF, '__call__', fake)
    logits = random_logits()
    for one in logits:
        one[1] = -20.0
    samples = predictions(logits)
    samples[0].set_metainfo(dict(img_path=path))
    (merged, ) = build(crf=dict(iterations=3)).merge_preds([samples])
    ((params, rgb, scores, used, sizes), ) = calls
    np.testing.assert_array_equal(rgb[0].permute(1, 2, 0), image)  # RGB, not BGR
    assert params == DenseCRFParams(iterations=3)
    assert scores.shape == (1, 3, *SIZE) and used.all() and sizes == [SIZE]
    probs = scores[0]
    np.testing.assert_allclose(merged.seg_logits.data[0], probs[2])
    np.testing.assert_allclose(merged.seg_logits.data[3], probs[0])
    assert (merged.seg_logits.data[1] == 0).all()
    assert torch.equal(merged.pred_sem_seg.data, merged.seg_logits.data.argmax(0, keepdim=True))


def test_real_crf(photo):
    path, image = photo
    logits = random_logits()
    samples = predictions(logits)
    samples[0].set_metainfo(dict(img_path=path))
    (merged, ) = build(crf=dict(), min_score=0.0).merge_preds([samples])
    mean = sum(one.softmax(0) for one in logits) / 3
    expected = dense_crf(image, mean.numpy())
    np.testing.assert_allclose(merged.seg_logits.data, expected, atol=1e-5)


def test_no_crf_for_one_class_or_without_setting(monkeypatch):
    """The image is not even read: its path leads nowhere."""
    logits = random_logits()
    assert build(crf=None).merge_preds([predictions(logits)])
    only = [torch.cat([one[:1] + 50, one[1:]]) for one in logits]
    (merged, ) = build(crf=dict()).merge_preds([predictions(only)])
    assert (merged.pred_sem_seg.data == 0).all()


def test_test_step_merges_all_augmentations():
    """Data as the loader gives them: a list per key, one entry per augmentation."""
    samples = predictions(random_logits(2))
    data = dict(inputs=[[torch.zeros(3, *SIZE)]] * 2, data_samples=[[s] for s in samples])
    expected = sum(s.seg_logits.data.softmax(0) for s in samples) / 2
    (merged, ) = build(min_score=0.0).test_step(data)
    torch.testing.assert_close(merged.seg_logits.data, expected)


def test_scores_of_mask_classification_are_no_logits():
    """Mask2Former's are sums of probabilities: softmax would put all of 150 classes below 0.05."""
    scores = torch.full((150, *SIZE), 0.001)
    scores[7], scores[9] = 0.6, 0.3
    model = build(150)
    model.module.decode_head = torch.nn.Module()
    model.module.decode_head.num_queries = 100
    (merged, ) = model.merge_preds([predictions([scores, scores])])
    total = 0.9 + 148 * 0.001
    torch.testing.assert_close(merged.seg_logits.data[[7, 9], 0, 0],
                               torch.tensor([0.6, 0.3]) / total)
    assert (merged.pred_sem_seg.data == 7).all()
    assert (merged.seg_logits.data.sum((1, 2)) > 0).nonzero().flatten().tolist() == [7, 9]


def test_half_precision_logits_are_averaged_in_float32():
    logits = random_logits()
    (merged, ) = build().merge_preds([predictions([one.bfloat16() for one in logits])])
    assert merged.seg_logits.data.dtype == torch.float32


@pytest.mark.parametrize('what', ['path', 'missing', 'broken', 'empty', 'size'])
def test_image_errors(what, tmp_path, photo):
    samples = predictions(random_logits())
    if what == 'path':
        samples[0] = samples[0].new(metainfo=dict(ori_shape=SIZE))
        match, kind = 'no `img_path`', UserError
    elif what == 'missing':
        samples[0].set_metainfo(dict(img_path=str(tmp_path / 'absent.jpg')))
        match, kind = 'absent.jpg', FileNotFoundError
    elif what in ('broken', 'empty'):
        (tmp_path / 'broken.jpg').write_bytes(b'no image' if what == 'broken' else b'')
        samples[0].set_metainfo(dict(img_path=str(tmp_path / 'broken.jpg')))
        match, kind = 'broken.jpg: expected an image', UserError
    else:
        Image.new('RGB', (5, 4)).save(tmp_path / 'small.png')
        samples[0].set_metainfo(dict(img_path=str(tmp_path / 'small.png')))
        match, kind = r'\(9, 12\) like its prediction, but it has \(4, 5\)', UserError
    with pytest.raises(kind, match=match):
        build(crf=dict()).merge_preds([samples])


@pytest.mark.parametrize(('kwargs', 'match'), [
    (dict(min_score=1.0), r'min_score in \[0, 1\), but got 1.0'),
    (dict(crf=dict(iteration=3)), "got .*'iteration'"),
    (dict(out_channels=1), 'out_channels=1.'),
])
def test_constructor_errors(kwargs, match):
    with pytest.raises(ValueError, match=match):
        build(**kwargs)
