"""tools/dataset_converters/voc_trainaug.py: the list of both training parts."""
from __future__ import annotations

import os

import pytest

TOOL = 'dataset_converters/voc_trainaug'


@pytest.fixture
def lists(tmp_path):
    """Folder of the lists; train and aug share one image, lines end in all ways."""
    folder = tmp_path / 'VOC2012/ImageSets/Segmentation'
    folder.mkdir(parents=True)
    (folder / 'train.txt').write_text('c\na\n')
    (folder / 'aug.txt').write_bytes(b'd\r\na\r\n\r\nb')
    (folder / 'val.txt').write_text('e\n')
    return folder


def test_union_in_order(run_tool, lists, capfd):
    (lists / 'trainaug.txt').write_text('an older list\n')
    assert run_tool(TOOL, lists.parents[1]) == 0
    assert (lists / 'trainaug.txt').read_text() == 'c\na\nd\nb\n'
    output, error = capfd.readouterr()
    assert '4 images (train 2, aug 3)' in output
    assert error == 'warning: expected the 10582 images of VOC 2012 + SBD, but the lists hold 4\n'
    assert sorted(os.listdir(lists)) == ['aug.txt', 'train.txt', 'trainaug.txt', 'val.txt']


def test_the_whole_set_brings_no_warning(run_tool, lists, capfd):
    (lists / 'train.txt').write_text(''.join(f't{i}\n' for i in range(1464)))
    (lists / 'aug.txt').write_text(''.join(f'a{i}\n' for i in range(9118)))
    assert run_tool(TOOL, lists.parents[1]) == 0
    output, error = capfd.readouterr()
    assert '10582 images (train 1464, aug 9118)' in output and not error


def remove(name):
    return lambda lists: (lists / f'{name}.txt').unlink()


def write(name, text):
    return lambda lists: (lists / f'{name}.txt').write_text(text)


@pytest.mark.parametrize(('damage', 'message'), [
    (remove('aug'), ('aug.txt: no such list.', 'tools/dataset_converters/voc_aug.py')),
    (remove('train'), ('train.txt: no such list.', 'come with VOC 2012')),
    (remove('val'), ('val.txt: no such list.', )),
    (write('aug', '\n \n'), ('aug.txt: expected one image id per line', 'empty')),
    (write('val', 'd\ne\na\n'), ('no image of val.txt', 'found 2, such as a, d.')),
])
def test_wrong_lists_are_told_in_one_line(run_tool, lists, capfd, damage, message):
    (lists / 'trainaug.txt').write_text('an older list\n')
    damage(lists)
    assert run_tool(TOOL, lists.parents[1]) == 2
    output, error = capfd.readouterr()
    assert not output and error.startswith('error: ') and error.count('\n') == 1
    assert all(part in error for part in message)
    assert (lists / 'trainaug.txt').read_text() == 'an older list\n'
