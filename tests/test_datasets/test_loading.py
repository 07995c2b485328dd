"""Loading of masks, features and activation maps, and the packing of a sample."""
from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.dataset import pseudo_collate
from mmseg.models import SegDataPreProcessor
from PIL import Image

from mmseg_dhr.datasets.transforms import (
    LoadCAM,
    LoadPseudoMask,
    LoadUSSFeatures,
    PackTaggedInputs,
    TrackGeometry,
)
from mmseg_dhr.formats import write_cam, write_features, write_mask
from mmseg_dhr.ops.geometry import AxisAffine

PALETTE = [[0, 0, 0]]


def sample(size=(4, 6), **values):
    return dict(img=np.zeros((*size, 3), np.uint8), img_shape=size, ori_shape=size,
                img_path='x/a.jpg', seg_fields=[], **values)


class TestLoadPseudoMask:

    def test_mask_and_shares(self, tmp_path):
        mask = np.array([[0, 0, 1, 1, 255, 255]] * 4)
        write_mask(tmp_path / 'a.png', mask, PALETTE)
        results = LoadPseudoMask(str(tmp_path), 4)(sample())
        np.testing.assert_array_equal(results['gt_seg_map'], mask)
        assert results['gt_seg_map'].dtype == np.uint8
        assert results['base_shares'].dtype == np.float32
        np.testing.assert_allclose(results['base_shares'], [1 / 3, 1 / 3, 0, 0])
        assert results['seg_fields'] == ['gt_seg_map']

    def test_replaces_an_annotation(self, tmp_path):
        """After LoadAnnotations, a field listed twice would be flipped back by every flip."""
        write_mask(tmp_path / 'a.png', np.ones((4, 6), np.uint8), PALETTE)
        results = sample(gt_seg_map=np.zeros((4, 6), np.uint8))
        results['seg_fields'] = ['gt_seg_map']
        results = LoadPseudoMask(str(tmp_path), 2)(results)
        assert results['seg_fields'] == ['gt_seg_map'] and results['gt_seg_map'].all()

    def test_img_id_names_the_file(self, tmp_path):
        write_mask(tmp_path / 'b.png', np.ones((4, 6), np.uint8), PALETTE)
        results = LoadPseudoMask(str(tmp_path), 2, required=True)(sample(img_id='b'))
        assert results['gt_seg_map'].all()

    @pytest.mark.parametrize('folder', ['', None])
    def test_no_mask(self, tmp_path, folder):
        mask_dir = None if folder is None else str(tmp_path)
        results = LoadPseudoMask(mask_dir, 4)(sample(base_shares='stale'))
        assert (results['gt_seg_map'] == 255).all() and results['gt_seg_map'].shape == (4, 6)
        assert results['base_shares'] is None and results['seg_fields'] == ['gt_seg_map']

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"'a' not found: .*a\.png.*tools/make_base_"):
            LoadPseudoMask(str(tmp_path), 4, required=True)(sample())
        with pytest.raises(FileNotFoundError, match=r'absent \(the whole folder\)'):
            LoadPseudoMask(str(tmp_path / 'absent'), 4)(sample())
        with pytest.raises(ValueError, match='`mask_dir`'):
            LoadPseudoMask(None, 4, required=True)

    def test_wrong_size(self, tmp_path):
        write_mask(tmp_path / 'a.png', np.zeros((6, 4), np.uint8), PALETTE)
        with pytest.raises(ValueError, match=r"a\.png: .*image's size 4x6 .*found 6x4"):
            LoadPseudoMask(str(tmp_path), 4)(sample())

    def test_wrong_label(self, tmp_path):
        write_mask(tmp_path / 'a.png', np.full((4, 6), 4), PALETTE)
        with pytest.raises(ValueError, match=r'a\.png: .*below 4 or 255, but found \[4\]'):
            LoadPseudoMask(str(tmp_path), 4)(sample())

    def test_colours(self, tmp_path):
        Image.new('RGB', (6, 4)).save(tmp_path / 'a.png')
        with pytest.raises(ValueError, match="'RGB'"):
            LoadPseudoMask(str(tmp_path), 4)(sample())


class TestLoadUSSFeatures:

    @pytest.mark.parametrize('options, grid', [
        (dict(stride=2), (2, 3)), (dict(stride=4), (1, 2)), (dict(grid=(3, 5)), (3, 5)),
        (dict(grid=[2, 2]), (2, 2))])
    def test_grid(self, tmp_path, options, grid):
        write_features(tmp_path / 'a.safetensors', torch.ones(7, 2, 3))
        results = LoadUSSFeatures(str(tmp_path), **options)(
            sample(geometry=AxisAffine.identity()))
        assert results['uss_features'].dtype == torch.float32
        assert torch.equal(results['uss_features'], torch.ones(7, *grid))

    def test_missing(self, tmp_path):
        load = LoadUSSFeatures(str(tmp_path), stride=2)
        with pytest.raises(FileNotFoundError, match=r"'a' not found.*tools/extract_uss_feat"):
            load(sample(geometry=AxisAffine.identity()))
        with pytest.raises(ValueError, match='TrackGeometry'):
            load(sample())

    @pytest.mark.parametrize('options', [
        dict(), dict(stride=2, grid=(2, 2)), dict(stride=0), dict(grid=(0, 2))])
    def test_bad_settings(self, options):
        with pytest.raises(ValueError, match='LoadUSSFeatures expects'):
            LoadUSSFeatures('cache', **options)


def test_load_cam(tmp_path):
    write_cam(tmp_path / 'a.npz', [3, 5], np.full((2, 2, 3), .5))
    cam = LoadCAM(str(tmp_path))(sample())['cam']
    assert cam.labels.tolist() == [3, 5] and cam.maps.shape == (2, 2, 3)
    with pytest.raises(FileNotFoundError, match=r"image 'b' not found.*tools/make_cams\.py"):
        LoadCAM(str(tmp_path))(sample(img_id='b'))


@pytest.mark.usefixtures('mmseg_modules')
class TestWholePipeline:

    @pytest.fixture
    def pipeline(self, tmp_path):
        rng = np.random.default_rng(0)
        image = Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8))
        image.save(tmp_path / 'a.jpg')
        write_mask(tmp_path / 'a.png', np.arange(60)[None].repeat(40, 0) // 20, PALETTE)
        write_features(tmp_path / 'a.safetensors', torch.randn(8, 10, 15))
        return Compose([
            dict(type='LoadImageFromFile'),
            dict(type='LoadPseudoMask', mask_dir=str(tmp_path), num_classes=4, required=True),
            dict(type='TrackGeometry', transforms=[
                dict(type='RandomResize', scale=(90, 60), ratio_range=(.5, 2.), keep_ratio=True),
                dict(type='RandomCrop', crop_size=(32, 48)),
                dict(type='RandomFlip', prob=.5),
                dict(type='PhotoMetricDistortion')]),
            dict(type='LoadUSSFeatures', cache_dir=str(tmp_path), stride=8),
            dict(type='PackTaggedInputs')])

    def run(self, pipeline, folder, seed=0):
        np.random.seed(seed)
        return pipeline(dict(img_path=str(folder / 'a.jpg'), img_id='a', image_labels=(1, 2),
                             seg_fields=[], reduce_zero_label=False))

    def test_packed(self, pipeline, tmp_path):
        packed = self.run(pipeline, tmp_path)
        data_sample = packed['data_samples']
        height, width = packed['inputs'].shape[1:]
        assert data_sample.gt_sem_seg.shape == (height, width)
        assert data_sample.uss_features.data.shape == (8, -(-height // 8), -(-width // 8))
        assert data_sample.metainfo['image_labels'] == (1, 2)
        assert data_sample.metainfo['img_id'] == 'a'
        assert data_sample.metainfo['ori_shape'] == (40, 60)
        assert isinstance(data_sample.metainfo['geometry'], AxisAffine)
        # Shares are those of the whole mask, whatever the crop shows.
        np.testing.assert_allclose(data_sample.metainfo['base_shares'], [1 / 3, 1 / 3, 1 / 3, 0])

    def test_mask_follows_the_geometry(self, pipeline, tmp_path):
        for seed in range(5):
            data_sample = self.run(pipeline, tmp_path, seed)['data_samples']
            mask = data_sample.gt_sem_seg.data[0].numpy()
            x, _ = data_sample.geometry.apply(np.arange(mask.shape[1]) + .5, 0)
            sure = np.abs(x % 20 - 10) < 8  # columns well inside a stripe
            np.testing.assert_array_equal(mask[:, sure], (x[sure] // 20)[None].repeat(len(mask), 0))

    def test_batches(self, pipeline, tmp_path):
        """Samples of different size survive workers, collation and padding."""
        batch = pseudo_collate([self.run(pipeline, tmp_path, seed) for seed in range(4)])
        batch = pickle.loads(pickle.dumps(batch))
        preprocess = SegDataPreProcessor(size=(32, 48), mean=[0] * 3, std=[1] * 3)
        data = preprocess(batch, training=True)
        assert data['inputs'].shape == (4, 3, 32, 48)
        for data_sample in data['data_samples']:
            assert data_sample.gt_sem_seg.shape == (32, 48)
            assert data_sample.uss_features.data.shape[0] == 8

    def test_without_the_optional(self):
        packed = PackTaggedInputs()(sample())
        assert packed['inputs'].shape == (3, 4, 6)
        assert 'uss_features' not in packed['data_samples']
        assert 'image_labels' not in packed['data_samples'].metainfo


@pytest.mark.usefixtures('mmseg_modules')
def test_reprs():
    """mmengine logs transforms by their repr."""
    assert repr(LoadPseudoMask('m', 3)) == \
        "LoadPseudoMask(mask_dir='m', num_classes=3, required=False)"
    assert repr(LoadUSSFeatures('c', stride=8)) == \
        "LoadUSSFeatures(cache_dir='c', stride=8, grid=None)"
    assert repr(LoadCAM('c')) == "LoadCAM(cam_dir='c')"
    assert 'RandomFlip' in repr(TrackGeometry([dict(type='RandomFlip', prob=.5)]))
