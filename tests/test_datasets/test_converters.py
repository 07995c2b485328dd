"""mmseg_dhr.datasets.converters: counts, tags from masks and XML, COCO's instances."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mmseg.datasets import (
    ADE20KDataset,
    COCOStuffDataset,
    PascalContextDataset59,
    PascalVOCDataset,
)

from mmseg_dhr.datasets import COCOObjectDataset
from mmseg_dhr.datasets.converters import (
    LabelledImage,
    cores,
    count_warning,
    paint_instances,
    read_instances,
    tags_from_masks,
    tags_from_voc_xml,
    write_object_masks,
    write_tags,
)
from mmseg_dhr.formats import read_mask
from mmseg_dhr.utils import UserError
from tests.data_sets import draw_ade, draw_coco, draw_context, draw_stuff, draw_voc
from tests.data_sets.coco import CATEGORIES
from tests.data_sets.pascal import DIFFICULT, VOC_TRAIN

VOC = PascalVOCDataset.METAINFO['classes']


class TestCounts:

    @pytest.mark.parametrize(('dataset', 'split', 'found'), [
        ('PascalVOCDataset', 'train', 10582), ('PascalVOCDataset', 'val', 1449),
        ('COCOObjectDataset', 'train', 82081), ('COCOObjectDataset', 'train', 82783),
        ('COCOObjectDataset', 'val', 40137), ('COCOObjectDataset', 'val', 40504),
        ('PascalContextDataset59', 'train', 4998), ('PascalContextDataset59', 'val', 5105),
        ('ADE20KDataset', 'train', 20210), ('ADE20KDataset', 'val', 2000),
        ('COCOStuffDataset', 'train', 118287), ('COCOStuffDataset', 'val', 5000)])
    def test_official(self, dataset, split, found):
        assert count_warning(dataset, split, found) is None
        for other in (found - 1, found + 1):
            warning = count_warning(dataset, split, other)
            assert str(found) in warning and warning.endswith(f'but found {other}')

    def test_own_data(self):
        assert count_warning('BaseSegDataset', 'train', 3) is None
        assert count_warning('ADE20KDataset', 'test', 3) is None


@pytest.mark.parametrize(('draw', 'kind', 'files', 'options'), [
    (draw_ade, ADE20KDataset, 'annotations/training/{}.png', dict(reduce_zero_label=True)),
    (draw_context, PascalContextDataset59, 'SegmentationClassContext/{}.png',
     dict(reduce_zero_label=True)),
    (draw_stuff, COCOStuffDataset, 'annotations/train2017/{}_labelTrainIds.png', {}),
    (draw_voc, PascalVOCDataset, 'SegmentationClassAug/{}.png', dict(background_index=0))])
@pytest.mark.parametrize('jobs', [1, 2])
def test_tags_from_masks(tmp_path, draw, kind, files, options, jobs):
    drawn = draw(tmp_path)
    masks = {image_id: tmp_path / files.format(image_id) for image_id in drawn.train}
    classes = kind.METAINFO['classes']
    tags = tags_from_masks(masks, classes, **{'background_index': None, **options}, jobs=jobs)
    write_tags(tmp_path / 'tags.json', tags, classes)
    assert json.loads((tmp_path / 'tags.json').read_text()) == {
        image_id: drawn.tags[image_id] for image_id in drawn.train}


def test_small_classes_can_be_left_out(tmp_path):
    drawn = draw_stuff(tmp_path)
    mask = drawn.masks[drawn.train[0]]
    file = tmp_path / f'annotations/train2017/{drawn.train[0]}_labelTrainIds.png'
    labels, counts = np.unique(mask[mask != 255], return_counts=True)
    tags = tags_from_masks({'a': file}, COCOStuffDataset.METAINFO['classes'], None,
                           min_pixels=int(counts.min()) + 1)
    assert tags['a'] == tuple(labels[counts > counts.min()])
    assert len(tags['a']) == len(labels) - 1


def test_a_missing_mask_and_masks_of_other_labels(tmp_path):
    draw_stuff(tmp_path)
    folder = tmp_path / 'annotations/train2017'
    with pytest.raises(UserError, match='1 of 1 masks do not exist, such as .*nowhere.png'):
        tags_from_masks({'a': folder / 'nowhere.png'}, VOC, 0)
    (folder / 'raw.png').write_bytes((folder / '000000000025.png').read_bytes())
    with pytest.raises(ValueError, match='raw.png: expected label indices below 21 or 255'):
        tags_from_masks({'raw': folder / 'raw.png'}, VOC, 0)


class TestVOCAnnotations:

    def test_difficult_objects_are_the_only_difference(self, tmp_path):
        drawn = draw_voc(tmp_path)
        files = {i: tmp_path / f'Annotations/{i}.xml' for i in drawn.train}
        shown = {i: tuple(sorted(VOC.index(name) for name in drawn.tags[i])) for i in drawn.train}
        assert tags_from_voc_xml(files, VOC, difficult=False) == shown
        hard = VOC.index(DIFFICULT)
        assert tags_from_voc_xml(files, VOC) == {
            i: tuple(sorted({*tags, hard})) if i in VOC_TRAIN else tags
            for i, tags in shown.items()}

    @pytest.mark.parametrize(('text', 'message'), [
        (None, 'no such annotation.*Annotations/ comes with VOC'),
        ('<annotation>', 'not a complete XML file'),
        ('<a><object><name>hors</name></object></a>', "'hors' is no class.*'horse'"),
        ('<a><object><difficult>0</difficult></object></a>', 'expected a <name>')])
    def test_errors(self, tmp_path, text, message):
        file = tmp_path / 'a.xml'
        if text is not None:
            file.write_text(text)
        with pytest.raises(ValueError, match=f'a.xml.*{message}'):
            tags_from_voc_xml({'a': file}, VOC)

    def test_no_object(self, tmp_path):
        (tmp_path / 'a.xml').write_text('<annotation></annotation>')
        assert tags_from_voc_xml({'a': tmp_path / 'a.xml'}, VOC) == {'a': ()}


class TestCOCO:

    @pytest.fixture
    def coco(self, tmp_path):
        return draw_coco(tmp_path / 'coco', ready=False)

    @pytest.fixture
    def file(self, coco) -> Path:
        return coco.root / 'annotations/instances_train2014.json'

    def change(self, file, edit) -> None:
        content = json.loads(file.read_text())
        edit(content)
        file.write_text(json.dumps(content))

    def test_the_80_categories(self):
        numbers = COCOObjectDataset.CATEGORY_IDS
        assert len(numbers) == 80 and numbers[0] == 1 and numbers[-1] == 90
        classes = COCOObjectDataset.METAINFO['classes']
        for category, name in ((1, 'person'), (11, 'fire hydrant'), (13, 'stop sign'),
                               (27, 'backpack'), (46, 'wine glass'), (67, 'dining table'),
                               (90, 'toothbrush')):  # as COCO's own JSON has them
            assert classes[CATEGORIES[category]] == name
            assert numbers[CATEGORIES[category] - 1] == category

    def test_masks_and_tags(self, coco, file):
        instances = read_instances(file)
        assert list(instances.images) == coco.train
        assert instances.with_objects == coco.shown('train') != coco.train
        for image_id, image in instances.images.items():
            np.testing.assert_array_equal(paint_instances(image), coco.masks[image_id])
            assert {COCOObjectDataset.METAINFO['classes'][t] for t in image.tags} == set(
                coco.tags[image_id])

    def test_an_object_under_others_is_a_tag(self):
        """A box of label 1 under one of the same area, which stands later in the file."""
        box = [[0, 0, 4, 0, 4, 3, 0, 3]]
        image = LabelledImage((5, 6), [(1, box), (2, box)])
        expected = np.zeros((5, 6), np.uint8)
        expected[:3, :4] = 2
        np.testing.assert_array_equal(paint_instances(image), expected)
        assert image.tags == (1, 2)

    def test_run_lengths_of_both_kinds(self):
        from pycocotools import mask as coder

        expected = np.zeros((5, 6), np.uint8)
        expected[1:4, 2:3] = 80
        plain = dict(size=[5, 6], counts=[11, 3, 16])
        packed = coder.frPyObjects(plain, 5, 6)
        packed['counts'] = packed['counts'].decode()
        for code in (plain, packed):
            np.testing.assert_array_equal(
                paint_instances(LabelledImage((5, 6), [(80, code)])), expected)

    def test_files_and_going_on(self, coco, file, tmp_path):
        instances = read_instances(file)
        out = tmp_path / 'masks'
        assert write_object_masks(instances, out, jobs=2) == len(coco.train)
        for image_id in coco.train:
            np.testing.assert_array_equal(read_mask(out / f'{image_id}.png'),
                                          coco.masks[image_id])
        (out / f'{coco.train[1]}.png').unlink()
        assert write_object_masks(instances, out) == 1
        self.change(file, lambda content: content['annotations'].pop())
        with pytest.raises(ValueError, match='made with other settings'):
            write_object_masks(read_instances(file), out)
        assert write_object_masks(read_instances(file), out, overwrite=True) == len(coco.train)

    @pytest.mark.parametrize(('edit', 'message'), [
        (lambda c: c['categories'][3].update(name='car'), "'car' as number 4.*'motorcycle'"),
        (lambda c: c['categories'][0].update(id=12), "'person' as number 12.*None"),
        (lambda c: c['annotations'][0].update(category_id=12), 'KeyError: 12'),
        (lambda c: c['annotations'][0].update(image_id=1), 'expected instances'),
        (lambda c: c.pop('annotations'), 'annotations')])
    def test_other_files(self, file, edit, message):
        self.change(file, edit)
        with pytest.raises(UserError, match=f'instances_train2014.json.*{message}'):
            read_instances(file)

    def test_no_file(self, tmp_path):
        with pytest.raises(UserError, match='nowhere.json: no such file'):
            read_instances(tmp_path / 'nowhere.json')
        (tmp_path / 'half.json').write_text('{"images": [')
        with pytest.raises(UserError, match='half.json: expected instances'):
            read_instances(tmp_path / 'half.json')

    def test_without_pycocotools(self, file, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, 'pycocotools', None)
        with pytest.raises(UserError, match='pip install pycocotools.*--no-masks'):
            write_object_masks(read_instances(file), tmp_path / 'masks')
        assert not (tmp_path / 'masks').exists()


def test_cores_where_the_system_knows_of_none_that_are_ours(monkeypatch) -> None:
    """As on macOS and Windows."""
    monkeypatch.delattr('os.sched_getaffinity')
    monkeypatch.setattr('os.cpu_count', lambda: 7)
    assert cores() == 7
