from __future__ import annotations

import json
import pickle
import random

import numpy as np
import pytest
import torch
from mmseg.datasets import PascalVOCDataset
from PIL import Image

from mmseg_dhr.datasets import TaggedDataset

IDS = ['2007_000001', '2007_000002', '2007_000003', '2007_000004', '2007_000005']
LOAD = dict(type='LoadImageFromFile', imdecode_backend='pillow')


class Draw:
    """A pipeline step that reports what the three random sources give."""

    def __call__(self, results):
        results['drawn'] = (random.random(), np.random.rand(), torch.rand(1).item())
        return results


@pytest.fixture
def root(tmp_path):
    """A VOC folder with five images and their tags."""
    (tmp_path / 'JPEGImages').mkdir()
    (tmp_path / 'ImageSets').mkdir()
    rng = np.random.default_rng(0)
    for image_id in IDS:
        image = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
        image.save(tmp_path / 'JPEGImages' / f'{image_id}.jpg')
    (tmp_path / 'ImageSets' / 'train.txt').write_text('\n'.join(IDS))
    labels = {image_id: ['cat', 'person'] if i % 2 else ['dog'] for i, image_id in enumerate(IDS)}
    (tmp_path / 'labels.json').write_text(json.dumps(labels))
    return tmp_path


# Configs name components of mmseg.
pytestmark = pytest.mark.usefixtures('mmseg_modules')


def config(root, pipeline=(LOAD,), labels=None, seed=None, **dataset):
    inner = dict(type='PascalVOCDataset', data_root=str(root), ann_file='ImageSets/train.txt',
                 data_prefix=dict(img_path='JPEGImages', seg_map_path='absent'),
                 pipeline=list(pipeline))
    inner.update(dataset)
    return dict(dataset=inner, labels=labels or dict(type='json', path='labels.json'), seed=seed)


class TestPlain:

    def test_infos(self, root):
        dataset = TaggedDataset(**config(root))
        assert len(dataset) == 5
        assert dataset.image_ids == tuple(IDS)
        assert dataset.image_labels(0) == (12,) and dataset.image_labels(1) == (8, 15)
        assert dataset.metainfo['classes'] == PascalVOCDataset.METAINFO['classes']
        info = dataset.get_data_info(1)
        assert info['img_id'] == IDS[1] and info['image_labels'] == (8, 15)
        assert info['img_path'].endswith(f'{IDS[1]}.jpg')

    def test_samples_in_order(self, root):
        dataset = TaggedDataset(**config(root))
        for index, image_id in enumerate(IDS):
            sample = dataset[index]
            assert sample['img_id'] == image_id and sample['img'].shape == (24, 32, 3)
        with pytest.raises(IndexError, match='below 5, but got 5'):
            dataset[5]

    def test_takes_a_built_data_set(self, root):
        cfg = config(root)
        inner = dict(cfg['dataset'])
        inner.pop('type')
        dataset = TaggedDataset(PascalVOCDataset(**inner), cfg['labels'])
        assert dataset[3]['image_labels'] == (8, 15)

    def test_lazy_and_subset(self, root):
        dataset = TaggedDataset(**config(root, lazy_init=True, indices=2))
        assert dataset.image_ids == tuple(IDS[:2])

    def test_absolute_label_path(self, root, tmp_path_factory):
        path = tmp_path_factory.mktemp('elsewhere') / 'a.json'
        path.write_text((root / 'labels.json').read_text())
        dataset = TaggedDataset(**config(root, labels=dict(type='json', path=str(path))))
        assert dataset.image_labels(0) == (12,)

    def test_picklable(self, root):
        dataset = pickle.loads(pickle.dumps(TaggedDataset(**config(root, seed=0))))
        assert dataset[7]['img_id'] in IDS


class TestSeeded:

    def test_sample_is_a_function_of_its_position(self, root):
        pipeline = (LOAD, dict(type='RandomFlip', prob=.5), Draw())
        first = TaggedDataset(**config(root, pipeline, seed=3))
        second = TaggedDataset(**config(root, pipeline, seed=3))
        forward = [first[position] for position in range(15)]
        np.random.seed(99)
        torch.manual_seed(99)
        for position in (14, 3, 3, 0, 9):
            again = second[position]
            assert again['drawn'] == forward[position]['drawn']
            assert again['img_id'] == forward[position]['img_id']
            np.testing.assert_array_equal(again['img'], forward[position]['img'])
        assert len({sample['drawn'] for sample in forward}) == 15
        assert len({value for sample in forward for value in sample['drawn']}) == 45

    def test_every_epoch_is_a_permutation_of_its_own(self, root):
        dataset = TaggedDataset(**config(root, seed=0))
        epochs = [tuple(dataset.locate(e * 5 + i) for i in range(5)) for e in range(20)]
        assert all(sorted(order) == [0, 1, 2, 3, 4] for order in epochs)
        assert len(set(epochs)) > 10
        other = TaggedDataset(**config(root, seed=1))
        assert [other.locate(i) for i in range(100)] != [dataset.locate(i) for i in range(100)]

    def test_random_state_outside_is_untouched(self, root):
        dataset = TaggedDataset(**config(root, (LOAD, Draw()), seed=0))
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        expected = random.random(), np.random.rand(), torch.rand(1).item()
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        dataset[4]
        assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected

    def test_negative(self, root):
        with pytest.raises(IndexError, match='at least 0, but got -1'):
            TaggedDataset(**config(root, seed=0))[-1]
        with pytest.raises(ValueError, match='`seed` to be None or at least 0'):
            TaggedDataset(**config(root, seed=-1))


class TestErrors:

    @pytest.mark.parametrize('seed', [None, 0])
    def test_truncated_image(self, root, seed):
        path = root / 'JPEGImages' / f'{IDS[2]}.jpg'
        path.write_bytes(path.read_bytes()[:-100])
        dataset = TaggedDataset(**config(root, seed=seed))
        position = next(p for p in range(5) if dataset.locate(p) == 2)
        with pytest.raises(RuntimeError, match=rf"image '{IDS[2]}' \(.*{IDS[2]}\.jpg\): OSError: .*"
                                               'truncated'):
            dataset[position]

    @pytest.mark.parametrize('backend', ['pillow', 'cv2'])
    def test_file_that_is_no_image(self, root, backend):
        (root / 'JPEGImages' / f'{IDS[0]}.jpg').write_bytes(b'no image')
        dataset = TaggedDataset(**config(root, [dict(LOAD, imdecode_backend=backend)]))
        with pytest.raises(RuntimeError, match=f"image '{IDS[0]}'"):
            dataset[0]
        assert dataset[1]['img_id'] == IDS[1]

    def test_pipeline_that_gives_none(self, root):
        dataset = TaggedDataset(**config(root, [LOAD, lambda results: None]))
        with pytest.raises(RuntimeError, match=f"image '{IDS[0]}'.* gave None"):
            dataset[0]

    def test_no_data_root(self, root):
        with pytest.raises(FileNotFoundError, match=(
                r'absent: no such data folder \(`data_root`\)\. Expected a folder that holds '
                r'ImageSets/train\.txt \(ann_file\), JPEGImages \(data_prefix\.img_path\), '
                r'but found in .*: ImageSets, '
                r'JPEGImages, labels\.json\. .*--data-root FOLDER.*MMSEG_DHR_DATA')):
            TaggedDataset(**config(root / 'absent'))

    @pytest.mark.parametrize('change, name', [
        (dict(ann_file='ImageSets/test.txt'), 'ann_file'),
        (dict(data_prefix=dict(img_path='images')), 'data_prefix.img_path')])
    def test_part_missing(self, root, change, name):
        with pytest.raises(FileNotFoundError, match=f'not found .`{name}`.*but found'):
            TaggedDataset(**config(root, **change))

    def test_images_missing(self, root):
        (root / 'JPEGImages' / f'{IDS[1]}.jpg').unlink()
        with pytest.raises(FileNotFoundError, match=f'1 of 5 listed images .*{IDS[1]}.jpg'):
            TaggedDataset(**config(root))

    def test_empty(self, root):
        with pytest.raises(ValueError, match=r'JPEGImages: expected images \(\*\.bmp\)'):
            TaggedDataset(**config(root, type='BaseSegDataset', ann_file='', img_suffix='.bmp',
                                   metainfo=PascalVOCDataset.METAINFO))
        (root / 'ImageSets' / 'train.txt').write_text('')
        with pytest.raises(ValueError, match=r'train\.txt: expected a list of images'):
            TaggedDataset(**config(root))
        with pytest.raises(ValueError, match='the data set has no image'):
            TaggedDataset(**config(root, serialize_data=False))

    def test_data_set_that_makes_its_files(self, tmp_path):
        dataset = TaggedDataset(
            dict(type='ScenesDataset', data_root=str(tmp_path / 'new'), num_train=3, num_val=1,
                 size=64),
            dict(type='masks', path='SegmentationClass'))
        assert len(dataset) == 3 and all(map(dataset.image_labels, range(3)))

    def test_two_images_of_one_name(self, root):
        (root / 'JPEGImages' / 'sub').mkdir()
        (root / 'JPEGImages' / 'sub' / f'{IDS[0]}.jpg').touch()
        cfg = config(root, type='BaseSegDataset', metainfo=PascalVOCDataset.METAINFO, ann_file='')
        with pytest.raises(ValueError, match='a file name of its own.*sub'):
            TaggedDataset(**cfg)

    def test_labels_missing(self, root):
        with pytest.raises(FileNotFoundError, match=r'absent\.json: no such file'):
            TaggedDataset(**config(root, labels=dict(type='json', path='absent.json')))
        (root / 'labels.json').write_text(json.dumps({IDS[0]: ['dog']}))
        with pytest.raises(ValueError, match="4 of the data set's 5 images have no entry"):
            TaggedDataset(**config(root))

    def test_wrapper_inside(self, root):
        inner = config(root)['dataset']
        with pytest.raises(ValueError, match='pipeline of its own, but got RepeatDataset'):
            TaggedDataset(dict(type='RepeatDataset', times=2, dataset=inner),
                          dict(type='json', path='labels.json'))


def test_real_data(shared_dir):
    dataset = TaggedDataset(
        dict(type='PascalVOCDataset', data_root=str(shared_dir / 'data' / 'vocmini'),
             ann_file='ImageSets/Segmentation/train.txt', pipeline=[LOAD],
             data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug')),
        dict(type='npy', path='cls_labels.npy'), seed=0)
    assert len(dataset) == 1049
    sample = dataset[2000]
    assert sample['img'].ndim == 3 and sample['image_labels']
