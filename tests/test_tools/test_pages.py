"""docs/en/own_data.md and inference.md, followed to the letter on a few drawn photos.

Blocks are read from the pages: `csv` is the list of tags, `bash` is run, `python` is a config or is
run; `sh` needs a network or VOC and is not. Only the length of the training is another.

The commands of all pages are read by the parsers of the tools, but not run.
"""
from __future__ import annotations

import re
import runpy
import shlex
from collections import OrderedDict
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mmengine.visualization import Visualizer
from mmseg.apis import MMSegInferencer, inference_model, init_model
from mmseg.visualization import SegLocalVisualizer
from PIL import Image

from mmseg_dhr.datasets.labels import read_image_labels
from mmseg_dhr.formats import read_mask
from mmseg_dhr.utils import load_config

SHORT = """
max_iters = 3
train_cfg = dict(max_iters=max_iters)
_base_.custom_hooks[1].update(warmup_iters=1)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
default_hooks = dict(checkpoint=dict(interval=max_iters))
"""
PAGES = ('README.md', 'docs/en/*.md', 'configs/*/README.md')
ASSIGNMENT = re.compile(r'(\w+)=("[^"]*"|\S+)\s*')
SIZES = dict(street_01=(44, 60), street_02=(60, 44), street_03=(50, 50))


class Block(NamedTuple):
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text().replace('iter_1100', 'iter_3')
    return [Block(*found) for found in re.findall(r'^```(\w+)\n(.*?)^```', text, re.M | re.S)]


def draw(path: Path, size: tuple[int, int] = (48, 56)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.stem)).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def follow(block: Block, folder: Path) -> None:
    """Run a block of commands or of Python in a folder, in this process: starting one is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv('MMSEG_DHR_DATA', raising=False)
        for kind in (Visualizer, SegLocalVisualizer):  # there is one per process
            patch.setattr(kind, '_instance_dict', OrderedDict())
        if block.language == 'python':
            exec(compile(block.text, 'page', 'exec'), {})
            return
        for line in block.text.replace('\\\n', ' ').strip().split('\n'):
            python, *arguments = shlex.split(line)
            assert python == 'python'
            patch.setattr('sys.argv', arguments)
            runpy.run_path(arguments[0], run_name='__main__')


@pytest.fixture(scope='module')
def home(repo_root, tmp_path_factory) -> Path:
    """The folder of someone who has followed own_data.md."""
    folder = tmp_path_factory.mktemp('home')
    for name in ('configs', 'tools'):
        (folder / name).symlink_to(repo_root / name)
    page = blocks(repo_root / 'docs/en/own_data.md')
    (labels, ) = [block.text for block in page if block.language == 'csv']
    for row in labels.strip().split('\n')[1:]:
        image_id = row.split(',')[0]
        draw(folder / f'photos/images/{image_id}.jpg', SIZES.get(image_id, (48, 56)))
    (folder / 'photos/labels.csv').write_text(labels)
    config, _better = [block.text for block in page if block.language == 'python']
    assert len(config.strip().split('\n')) <= 10
    (folder / 'my_photos.py').write_text(config + SHORT)
    draw(folder / 'new_photos/street_09.jpg', (40, 52))
    draw(folder / 'new_photos/deep/street_10.PNG', (52, 40))
    for block in page:
        if block.language == 'bash':
            follow(block, folder)
    return folder


@pytest.fixture
def inside(home, monkeypatch) -> Path:
    """The same as the current folder."""
    monkeypatch.chdir(home)
    for kind in (Visualizer, SegLocalVisualizer):
        monkeypatch.setattr(kind, '_instance_dict', OrderedDict())
    return home


def test_own_data(home):
    classes = ('background', 'bicycle', 'dog', 'person')
    tags = read_image_labels(dict(type='csv', path=home / 'photos/labels.csv'), classes, 0)
    for image_id, labels in tags.items():
        mask = read_mask(home / f'work_dirs/my_photos/base_masks/{image_id}.png')
        assert mask.shape == SIZES.get(image_id, (48, 56))
        assert set(np.unique(mask)) <= {0, *labels, 255}
    masks = {file.stem: read_mask(file) for file in (home / 'masks').glob('*.png')}
    assert {name: mask.shape for name, mask in masks.items()} == dict(
        street_09=(40, 52), street_10=(52, 40))
    assert all(mask.max() < len(classes) for mask in masks.values())
    meta = torch.load(home / 'work_dirs/my_photos/iter_3.pth')['meta']['dataset_meta']
    assert tuple(meta['classes']) == classes


def test_the_better_encoder_fits(inside, repo_root):
    """Its lines come after the others; the weights are not here."""
    page = blocks(repo_root / 'docs/en/own_data.md')
    Path('better.py').write_text('\n'.join(b.text for b in page if b.language == 'python'))
    config = load_config('better.py')
    assert config.num_classes == 4 and config.work_dir == 'work_dirs/my_photos_vit'
    assert set(config.model.uss_encoder) == {'type', 'model_name', 'checkpoint'}
    uss, learning = config.custom_hooks
    assert learning.base_masks.debias.features == uss.out_dir
    assert load_config('my_photos.py').custom_hooks[1].base_masks.debias is None


def test_inference_page(home, repo_root):
    for block in blocks(repo_root / 'docs/en/inference.md'):
        if block.text.startswith('# with_crf.py'):
            (home / 'with_crf.py').write_text(block.text)
        elif block.language in ('bash', 'python'):
            follow(block, home)
    masks = {name: read_mask(home / f'masks_{name}/street_09.png')
             for name in ('plain', 'tta', 'crf', 'refined')}
    assert all(mask.shape == (40, 52) for mask in masks.values())
    np.testing.assert_array_equal(read_mask(home / 'inferred/pred/00000000_pred.png'),
                                  masks['plain'])
    assert len(list((home / 'inferred/vis').iterdir())) == 1  # mmseg's own takes no sub-folders


def pair(home: Path, kind: str, repo_root: Path) -> tuple[str, str]:
    """Config and checkpoint of a training, of its export, or of either with a CRF."""
    checkpoint = 'work_dirs/my_photos/iter_3.pth'
    if kind == 'trained':
        return 'my_photos.py', checkpoint
    if not Path('exported').is_dir():
        follow(Block('bash', 'python tools/model_converters/export_to_mmseg.py my_photos.py '
                             f'{checkpoint} exported'), home)
    return 'exported/my_photos.py', 'exported/my_photos.pth'


@pytest.mark.parametrize('kind', ['trained', 'exported'])
def test_every_surface_gives_the_same_mask(inside, repo_root, kind):
    config, checkpoint = pair(inside, kind, repo_root)
    photo = 'new_photos/street_09.jpg'
    expected = inference_model(init_model(config, checkpoint, 'cpu'), photo)
    mask = expected.pred_sem_seg.data[0].numpy()
    inferencer = MMSegInferencer(config, checkpoint, device='cpu')
    assert tuple(inferencer.model.dataset_meta['classes'])[1:] == ('bicycle', 'dog', 'person')
    result = inferencer(photo, out_dir=f'out_{kind}', return_vis=True, show=False)
    np.testing.assert_array_equal(result['predictions'], mask)
    assert result['visualization'].shape == (*mask.shape, 3)
    np.testing.assert_array_equal(read_mask(f'out_{kind}/pred/00000000_pred.png'), mask)
    np.testing.assert_array_equal(Image.open(f'out_{kind}/vis/street_09.jpg').size,
                                  mask.shape[::-1])
    bgr = np.array(Image.open(photo))[..., ::-1]
    np.testing.assert_array_equal(inferencer(bgr, show=False)['predictions'], mask)


def test_painted_photos(inside):
    follow(Block('bash', 'python tools/test.py my_photos.py work_dirs/my_photos/iter_3.pth '
                         '--images new_photos --show-dir painted'), inside)
    assert len(list(Path('painted').rglob('*street_*.png'))) == 2


WITH_CRF = """
_base_ = ['{config}']
custom_imports = dict(imports=['mmseg_dhr'])
model = dict(_delete_=True, type='CRFPostProcess', segmentor=_base_.model, min_score=0.0)
"""


SINGLE_VIEW = """
_base_ = ['{config}']
custom_imports = dict(imports=['mmseg_dhr'])
tta_model = dict(_delete_=True, type='CRFTTAModel', crf=dict(), min_score=0.0)
tta_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='TestTimeAug', transforms=[[dict(type='PackSegInputs')]])]
"""


@pytest.mark.parametrize('kind', ['trained', 'exported'])
def test_a_crf_on_every_surface(inside, repo_root, kind):
    config, checkpoint = pair(inside, kind, repo_root)
    refined = f'{kind}_crf.py'
    Path(refined).write_text(WITH_CRF.format(config=config))
    photo = 'new_photos/street_09.jpg'
    expected = inference_model(init_model(refined, checkpoint, 'cpu'), photo)
    once = f'once_{kind}.py'  # what CRFTTAModel does with a single view
    Path(once).write_text(SINGLE_VIEW.format(config=config))
    for file, flags, out in ((refined, '', 'a'), (once, '--tta', 'b')):
        follow(Block('bash', f'python tools/test.py {file} {checkpoint} --images new_photos '
                             f'--out {out}_{kind} {flags}'), inside)
    mask = expected.pred_sem_seg.data[0].numpy()
    for out in 'ab':
        np.testing.assert_array_equal(read_mask(f'{out}_{kind}/street_09.png'), mask)
    inferencer = MMSegInferencer(refined, checkpoint, device='cpu')
    np.testing.assert_array_equal(inferencer(photo, show=False)['predictions'], mask)
    bgr = np.array(Image.open(photo))[..., ::-1]  # no file: the input is the photo
    np.testing.assert_array_equal(inferencer(bgr, show=False)['predictions'], mask)


def commands_of(page: Path) -> list[list[str]]:
    """The words of each command of our tools on a page, with the values of its shell variables."""
    found = []
    for block in blocks(page):
        if block.language not in ('bash', 'sh'):
            continue
        values: dict[str, str] = {}
        for line in block.text.replace('\\\n', ' ').split('\n'):
            line = Template(line).safe_substitute(values)
            line = re.sub(r'^(\w+=\S+ +)+(?=python )', '', line)  # the environment of one command
            if line.startswith('python tools/'):
                found.append(shlex.split(line, comments=True)[1:])
            else:
                values.update({name: value.strip('"') for name, value in ASSIGNMENT.findall(line)})
    return found


def test_commands_of_a_page(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('```bash\nC=configs/a.py W="--x 1 \\\n    --y"\n'
                    'VAR=1 python tools/t.py ${C} $W \\\n    out  # why\n```\n'
                    '```python\npython tools/no.py\n```\n')
    assert commands_of(page) == [['tools/t.py', 'configs/a.py', '--x', '1', '--y', 'out']]


def test_commands_of_all_pages(repo_root, parser_of, capsys):
    """The tools take them as they are written, and the configs exist."""
    parsers, count = {}, 0
    for page in (path for pattern in PAGES for path in sorted(repo_root.glob(pattern))):
        for tool, *arguments in commands_of(page):
            what = f'{page.name}: {shlex.join([tool, *arguments])}'
            name = tool.removeprefix('tools/').removesuffix('.py')
            if tool not in parsers:
                assert (repo_root / tool).is_file(), what
                parsers[tool] = parser_of(name)
                parsers[tool].allow_abbrev = False
            try:
                parsers[tool].parse_args(arguments)
            except SystemExit:
                pytest.fail(f'{what}: {capsys.readouterr().err}')
            for word in arguments:
                if re.fullmatch(r'configs/\S+\.py', word):
                    assert (repo_root / word).is_file(), what
            count += 1
    assert count > 50 and len(parsers) > 15
