"""The commands of docs/en/datasets.md, and others of tools/dataset_converters, on drawn data."""
from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from mmseg_dhr.datasets.converters import OFFICIAL_COUNTS
from mmseg_dhr.formats import read_mask
from mmseg_dhr.utils import load_config
from tests.data_sets import DATA_SETS, draw
from tests.data_sets.page import commands_of, read_page, run_commands

SECTIONS = dict(voc='VOC 2012', coco='COCO 2014', context='Pascal Context', ade='ADE20K',
                stuff='COCO-Stuff')
TOOLS = 'dataset_converters'


def contents(root: Path) -> dict:
    """What the files below a folder say; a palette makes no difference."""
    found = {}
    for file in sorted(path for path in root.rglob('*') if path.is_file()):
        name = str(file.relative_to(root))
        if file.suffix == '.png':
            found[name] = read_mask(file).tolist()
        elif file.suffix == '.json':
            found[name] = json.loads(file.read_text())
        elif file.suffix == '.txt':
            found[name] = file.read_text()
    return found


@pytest.mark.parametrize('name', DATA_SETS)
def test_the_commands_of_the_page(name, repo_root, run_tool, capfd):
    """They make, of what is downloaded, what the fixture's own lines make of it."""
    root = Path(load_config(repo_root / f'configs/dhr/{name}_r101.py').data_root)
    assert not root.is_absolute()
    drawn = draw(name, root, ready=False)
    ready = draw(name, 'ready')
    assert contents(drawn.root) != contents(ready.root)
    run_commands(commands_of(repo_root, SECTIONS[name]), run_tool, repo_root, {})
    output, error = capfd.readouterr()
    made = contents(drawn.root)
    manifests = {file for file in made if file.endswith('manifest.json')}
    assert all(made.pop(file)['complete'] for file in manifests)
    if name == 'voc':
        assert set(made.pop('image_labels.json')) == set(drawn.train)  # of the boxes
    assert made == contents(ready.root)
    shown = {split: len(drawn.shown(split)) for split in ('train', 'val')}
    if name == 'ade':
        shown['train'] += 1  # the image without any class
    assert f'train: {shown["train"]} images' in output and f'val: {shown["val"]} images' in output
    expected = OFFICIAL_COUNTS[load_config(
        repo_root / f'configs/dhr/{name}_r101.py').images.type]
    for split in ('train', 'val'):
        assert re.search(rf'warning: expected the {expected[split][0]}.* but found '
                         f'{shown[split]}\n', error)


def test_the_page_names_the_official_counts(repo_root):
    page = read_page(repo_root)
    for name in DATA_SETS:
        cfg = load_config(repo_root / f'configs/dhr/{name}_r101.py')
        (row, ) = re.findall(rf'^\| `configs/dhr/{name}_r101.py` .*$', page, re.MULTILINE)
        numbers = {int(number.replace(',', '')) for number in re.findall(r'[\d,]+\d', row)}
        counts = OFFICIAL_COUNTS[cfg.images.type]
        assert numbers >= {cfg.num_classes, *counts['train'], *counts['val']}
        # The schedule: the paper's epochs over these images in batches of 16.
        source = Path(cfg.filename).read_text()
        epochs = int(re.search(r'# (\d+) epochs', source)[1])
        assert cfg.max_iters == pytest.approx(epochs * counts['train'][0] / 16, abs=51)


class TestVOC:

    def test_boxes_and_a_config_that_reads_them(self, run_tool, repo_root, tmp_path, capfd):
        drawn = draw('voc', tmp_path / 'voc')
        assert run_tool(f'{TOOLS}/voc_xml_tags', drawn.root, '--no-difficult') == 0
        tags = json.loads((drawn.root / 'image_labels.json').read_text())
        assert tags == {i: drawn.tags[i] for i in drawn.train}
        (tmp_path / 'boxes.py').write_text(
            f"_base_ = '{repo_root}/configs/dhr/voc_r101.py'\n"
            "labels = dict(type='json', path='image_labels.json')\n"
            'train_dataloader = dict(dataset=dict(labels=labels))\n'
            'pseudo_label_dataset = dict(labels=labels)\n')
        (drawn.root / 'SegmentationClassAug').rename(drawn.root / 'gone')
        assert run_tool(f'{TOOLS}/check_data_set', 'boxes.py', '--data-root', drawn.root) == 0

    def test_a_list_that_is_not_there(self, run_tool, tmp_path, capfd):
        drawn = draw('voc', tmp_path / 'voc', ready=False)
        assert run_tool(f'{TOOLS}/voc_xml_tags', drawn.root) == 2
        assert 'voc_trainaug.py' in capfd.readouterr().err
        assert run_tool(f'{TOOLS}/voc_xml_tags', drawn.root, '--list', 'val', '--out',
                        'tags.json') == 0
        assert set(json.loads(Path('tags.json').read_text())) == set(drawn.val)


class TestCOCO:

    def test_one_split_without_masks_and_without_pycocotools(self, run_tool, tmp_path, capfd,
                                                             monkeypatch):
        drawn = draw('coco', tmp_path / 'coco', ready=False)
        monkeypatch.setitem(sys.modules, 'pycocotools', None)
        options = ['--splits', 'train2014', '--jobs', 1]
        assert run_tool(f'{TOOLS}/coco_objects', drawn.root, *options, '--no-masks') == 0
        assert not (drawn.root / 'masks').exists()
        assert sorted(p.name for p in (drawn.root / 'lists').iterdir()) == [
            'train2014.txt', 'train2014_objects.txt']
        capfd.readouterr()
        assert run_tool(f'{TOOLS}/coco_objects', drawn.root, *options) == 2
        error = capfd.readouterr().err.splitlines()[-1]
        assert error.startswith('error: Masks of COCO need pycocotools')

    def test_a_missing_list_names_the_command(self, run_tool, repo_root, tmp_path, capfd):
        drawn = draw('coco', tmp_path / 'coco', ready=False)
        assert run_tool('train', repo_root / 'configs/dhr/coco_r101.py', '--data-root',
                        drawn.root) == 2
        error = capfd.readouterr().err
        assert f'`python tools/dataset_converters/coco_objects.py {drawn.root}`' in error
        assert (f'Expected {drawn.root} to hold lists/train2014_objects.txt (ann_file), train2014 '
                '(data_prefix.img_path), but') in error

    def test_all_images_are_usable(self, run_tool, repo_root, tmp_path, capfd):
        drawn = draw('coco', tmp_path / 'coco')
        (tmp_path / 'all.py').write_text(
            f"_base_ = '{repo_root}/configs/dhr/coco_r101.py'\n"
            "train_dataloader = dict(dataset=dict(dataset=dict(ann_file='lists/train2014.txt')))\n"
            "val_dataloader = dict(dataset=dict(ann_file='lists/val2014.txt'))\n")
        assert run_tool(f'{TOOLS}/check_data_set', 'all.py', '--data-root', drawn.root) == 0
        output = capfd.readouterr().out
        assert f'train: {len(drawn.train)} images' in output and '1 images have none' in output
        assert f'val: {len(drawn.val)} images' in output


class TestCheck:

    def test_a_missing_mask_of_the_validation_set(self, run_tool, repo_root, tmp_path, capfd):
        drawn = draw('ade', tmp_path / 'ade')
        (drawn.root / f'annotations/validation/{drawn.val[1]}.png').unlink()
        assert run_tool(f'{TOOLS}/check_data_set', repo_root / 'configs/dhr/ade_r101.py',
                        '--data-root', drawn.root) == 2
        assert f'such as {drawn.root}/annotations/validation/{drawn.val[1]}.png' in \
            capfd.readouterr().err

    def test_tags_of_a_config_that_reads_no_json(self, run_tool, repo_root, tmp_path, capfd):
        drawn = draw('voc', tmp_path / 'voc')
        command = [f'{TOOLS}/tags_from_masks', repo_root / 'configs/dhr/voc_r101.py',
                   '--data-root', drawn.root, '--jobs', 1]
        assert run_tool(*command) == 2
        assert '`--out`' in capfd.readouterr().err
        assert run_tool(*command, '--out', 'tags.json') == 0
        assert json.loads(Path('tags.json').read_text()) == {
            i: drawn.tags[i] for i in drawn.train}
