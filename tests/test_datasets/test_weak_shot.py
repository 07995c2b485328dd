from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mmseg.datasets import PascalVOCDataset
from PIL import Image

from mmseg_dhr.datasets import LoadMixedMask, WeakShotDataset, novel_labels, weak_shot
from mmseg_dhr.formats import write_mask

CLASSES = PascalVOCDataset.METAINFO['classes']
PALETTE = PascalVOCDataset.METAINFO['palette']
TAGS = {'a': ['cat'], 'b': ['aeroplane', 'cat'], 'c': ['dog', 'person'], 'd': ['bottle']}
BASE, NOVEL = ['a', 'c'], ['b', 'd']  # of fold 0


# Configs name components of mmseg.
pytestmark = pytest.mark.usefixtures('mmseg_modules')


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / 'JPEGImages').mkdir()
    for i, image_id in enumerate(TAGS):
        image = np.full((6, 8, 3), 40 * i, np.uint8)
        Image.fromarray(image).save(tmp_path / f'JPEGImages/{image_id}.jpg')
        write_mask(tmp_path / f'truth/{image_id}.png', np.full((6, 8), 1 + i, np.uint8), PALETTE)
        write_mask(tmp_path / f'pseudo/{image_id}.png', np.full((6, 8), 11 + i, np.uint8), PALETTE)
        boundary = np.zeros((6, 8), np.uint8)
        boundary[:, 3], boundary[:, 4] = 127, 128  # below and above one half
        write_mask(tmp_path / f'boundary/{image_id}.png', boundary, PALETTE)
    (tmp_path / 'train.txt').write_text('\n'.join(TAGS))
    (tmp_path / 'labels.json').write_text(json.dumps(TAGS))
    return tmp_path


def dataset(root: Path, pipeline=(), reduce_zero_label=False, **options) -> WeakShotDataset:
    inner = dict(type='PascalVOCDataset', data_root=str(root), ann_file='train.txt',
                 pipeline=list(pipeline), reduce_zero_label=reduce_zero_label,
                 data_prefix=dict(img_path='JPEGImages', seg_map_path='truth'))
    return WeakShotDataset(**{'dataset': inner, 'labels': dict(type='json', path='labels.json'),
                              'novel': 'pascal-5i/0', **options})


class TestNovelLabels:

    def test_folds_of_pascal(self):
        folds = [novel_labels(f'pascal-5i/{i}', CLASSES) for i in range(4)]
        assert folds[0] == (1, 2, 3, 4, 5) and folds[3] == (16, 17, 18, 19, 20)
        assert sorted(sum(folds, ())) == list(range(1, 21))
        assert [CLASSES[c] for c in folds[1]] == ['bus', 'car', 'cat', 'chair', 'cow']

    def test_names_and_indices_of_any_data_set(self):
        assert novel_labels(['chip', 2], ('background', 'leaf', 'pod', 'chip')) == (2, 3)
        assert novel_labels(['wall'], ('wall', 'sky'), None) == (0, )

    @pytest.mark.parametrize(('novel', 'message'), [
        ('pascal-5i/4', "'pascal-5i/0' to 'pascal-5i/3', but got 'pascal-5i/4'"),
        ('cat', "but got 'cat'"),
        (['catt'], "'catt' is no class of this data set. Did you mean 'cat'"),
        (['background', 'cat'], 'the background is a base class'),
        ([], 'but got 0 novel'),
        (CLASSES[1:], 'but got 20 novel'),
    ])
    def test_errors(self, novel, message):
        with pytest.raises(ValueError, match=message):
            novel_labels(novel, CLASSES)


class TestDataset:

    def test_an_image_with_a_novel_class_is_novel(self, root):
        found = dataset(root)
        assert len(found) == 4
        assert {found.image_ids[i]: found.get_data_info(i)['is_novel'] for i in range(4)} == \
            dict(a=False, b=True, c=False, d=True)

    def test_no_info_names_the_mask_of_a_novel_sample(self, root):
        found = dataset(root)
        for i, image_id in enumerate(found.image_ids):
            assert ('seg_map_path' in found.get_data_info(i)) == (image_id in BASE)

    @pytest.mark.parametrize(('part', 'ids'), [('base', BASE), ('novel', NOVEL)])
    def test_parts(self, root, part, ids):
        found = dataset(root, part=part, seed=3)
        assert list(found.image_ids) == ids and len(found) == 2
        infos = [found.get_data_info(i) for i in range(2)]
        assert [info['img_id'] for info in infos] == ids
        assert [Path(info['img_path']).stem for info in infos] == ids
        assert [info['image_labels'] for info in infos] == [
            tuple(sorted(CLASSES.index(tag) for tag in TAGS[i])) for i in ids]
        assert {found.locate(position) for position in range(2)} == {0, 1}

    @pytest.mark.parametrize(('base', 'warns'), [(2, False), (3, True)])
    def test_the_split_is_logged(self, root, monkeypatch, base, warns):
        """Here four images stand for trainaug."""
        lines = []
        monkeypatch.setattr(weak_shot, '_TRAINAUG_IMAGES', 4)
        monkeypatch.setattr(weak_shot, '_TRAINAUG_BASE', (base, 0, 0, 0))
        monkeypatch.setattr(weak_shot, 'print_log', lambda text, **_: lines.append(text))
        dataset(root)
        dataset(root, novel=['cat'])  # no fold of the paper's
        assert lines[0] == lines[-1] == 'Weak-shot split: 2 base and 2 novel samples.'
        assert ['3 base and 1 novel' in line for line in lines[1:-1]] == [True] * warns

    def test_errors(self, root):
        with pytest.raises(ValueError, match="'all', 'base', 'novel'.*'nov'"):
            dataset(root, part='nov')
        with pytest.raises(ValueError, match=r"None of the 4 images is a novel.*\['tvmonitor'\]"):
            dataset(root, novel=['tvmonitor'], part='novel')


class TestMixedMask:

    def masks(self, root: Path, reduce_zero_label: bool = False, **options) -> dict:
        load = dict(dict(type='LoadMixedMask', mask_dir=str(root / 'pseudo'), num_classes=21),
                    **options)
        found = dataset(root, [dict(type='LoadImageFromFile'), load], reduce_zero_label)
        samples = [found[i] for i in range(4)]
        assert all(sample['seg_fields'] == ['gt_seg_map'] for sample in samples)
        return {sample['img_id']: sample['gt_seg_map'] for sample in samples}

    def test_truth_of_base_samples_alone(self, root):
        for image_id in NOVEL:  # garbage in the truth of novel samples changes nothing
            (root / f'truth/{image_id}.png').write_bytes(b'garbage')
        assert {i: np.unique(mask).tolist() for i, mask in self.masks(root).items()} == \
            dict(a=[1], b=[12], c=[3], d=[14])

    def test_boundaries_of_novel_samples_are_ignored(self, root):
        masks = self.masks(root, boundary_dir=str(root / 'boundary'))
        for image_id in NOVEL:
            assert (masks[image_id][:, 4] == 255).all()
            assert (np.delete(masks[image_id], 4, 1) != 255).all()
        assert all((masks[image_id] != 255).all() for image_id in BASE)
        masks = self.masks(root, boundary_dir=str(root / 'boundary'), boundary_threshold=0.4)
        assert (masks['b'][:, 3:5] == 255).all() and (masks['b'][:, :3] != 255).all()

    def test_without_masks_novel_samples_are_ignored(self, root):
        masks = self.masks(root, mask_dir=None)
        assert all((masks[i] == 255).all() for i in NOVEL)
        assert (masks['a'] == 1).all() and (masks['c'] == 3).all()

    def test_truth_is_read_as_mmseg_does(self, root):
        """ADE20K's labels begin with 1 in the files."""
        masks = self.masks(root, reduce_zero_label=True)
        assert (masks['a'] == 0).all() and (masks['c'] == 2).all()
        assert (masks['b'] == 12).all()  # ours begin with 0

    def test_errors(self, root):
        load = LoadMixedMask(str(root / 'pseudo'), 21, str(root / 'boundary'))
        info = dict(img=np.zeros((6, 8, 3)), img_id='b', img_path='')
        with pytest.raises(KeyError, match='WeakShotDataset'):
            load(dict(info))
        with pytest.raises(KeyError, match=r'data_prefix\.seg_map_path'):
            load(dict(info, is_novel=False))
        with pytest.raises(FileNotFoundError, match=r"Mask of image 'x'.*x\.png"):
            load(dict(info, img_id='x', is_novel=True))
        write_mask(root / 'boundary/b.png', np.zeros((6, 7), np.uint8), PALETTE)
        with pytest.raises(ValueError, match=r'shape \(6, 8\), but found \(6, 7\)'):
            load(dict(info, is_novel=True))
        (root / 'boundary/b.png').unlink()
        with pytest.raises(FileNotFoundError, match=r"Boundary of image 'b'.*make_boundaries"):
            load(dict(info, is_novel=True))
