"""tools/dataset_converters/voc_trainaug.py: list and masks of both training parts."""
from __future__ import annotations

import os
import shutil

import pytest

TOOL = 'dataset_converters/voc_trainaug'


@pytest.fixture
def root(tmp_path):
    """Train and aug share image a, which has masks of both kinds; lines end in all ways."""
    root = tmp_path / 'VOC2012'
    for folder, names in (('SegmentationClass', 'ace'), ('SegmentationClassAug', 'abd')):
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / f'{name}.png').write_text(f'{folder} {name}')
    lists = root / 'ImageSets/Segmentation'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('c\na\n')
    (lists / 'aug.txt').write_bytes(b'd\r\na\r\n\r\nb')
    (lists / 'val.txt').write_text('e\n')
    (lists / 'trainaug.txt').write_text('an older list\n')
    return root


def test_union_in_order_and_one_folder_of_masks(run_tool, root, capfd):
    lists, masks = root / 'ImageSets/Segmentation', root / 'SegmentationClassAug'
    for copied in (1, 0):
        assert run_tool(TOOL, root) == 0
        assert (lists / 'trainaug.txt').read_text() == 'c\na\nd\nb\n'
        assert {file.name: file.read_text() for file in masks.iterdir()} == {
            'a.png': 'SegmentationClassAug a', 'b.png': 'SegmentationClassAug b',
            'c.png': 'SegmentationClass c', 'd.png': 'SegmentationClassAug d'}
        output, error = capfd.readouterr()
        assert '4 images (train 2, aug 3)' in output and f': {copied} masks of' in output
        assert error == ('warning: expected the 10582 images of VOC 2012 + SBD (train), but '
                         'found 4\n')
    assert sorted(os.listdir(lists)) == ['aug.txt', 'train.txt', 'trainaug.txt', 'val.txt']


def test_the_whole_set_brings_no_warning(run_tool, root, load_tool, monkeypatch, capfd):
    tool = load_tool(TOOL)
    monkeypatch.setattr(tool, 'complete_masks', lambda root, ids: 0)
    lists = root / 'ImageSets/Segmentation'
    (lists / 'train.txt').write_text(''.join(f't{i}\n' for i in range(1464)))
    (lists / 'aug.txt').write_text(''.join(f'a{i}\n' for i in range(9118)))
    tool.main([str(root)])
    output, error = capfd.readouterr()
    assert '10582 images (train 1464, aug 9118)' in output and not error


def remove(name):
    return lambda root: (root / name).unlink()


def write(name, text):
    return lambda root: (root / name).write_text(text)


LISTS = 'ImageSets/Segmentation'


@pytest.mark.parametrize(('damage', 'message'), [
    (remove(f'{LISTS}/aug.txt'), ('aug.txt: no such list.', 'tools/dataset_converters/voc_aug.py')),
    (remove(f'{LISTS}/train.txt'), ('train.txt: no such list.', 'come with VOC 2012')),
    (remove(f'{LISTS}/val.txt'), ('val.txt: no such list.', )),
    (write(f'{LISTS}/aug.txt', '\n \n'), ('aug.txt: expected one image id per line', 'empty')),
    (write(f'{LISTS}/val.txt', 'd\ne\na\n'), ('no image of val.txt', 'found 2, such as a, d.')),
    (remove('SegmentationClass/c.png'), ('1 of 4 training images have a mask neither', 'c.png')),
    (lambda root: shutil.rmtree(root / 'SegmentationClassAug'),
     ('SegmentationClassAug: no such folder', 'voc_aug.py')),
])
def test_what_is_wrong_is_told_in_one_line(run_tool, root, capfd, damage, message):
    damage(root)
    assert run_tool(TOOL, root) == 2
    output, error = capfd.readouterr()
    assert not output and error.startswith('error: ') and error.count('\n') == 1
    assert all(part in error for part in message)
    assert (root / LISTS / 'trainaug.txt').read_text() == 'an older list\n'
