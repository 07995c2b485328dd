"""Every command of the analysis page on six tiny scenes, with a network that was not trained."""
from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from PIL import Image

from mmseg_dhr.apis import write_uss_features
from mmseg_dhr.apis.build import build_dataset
from mmseg_dhr.datasets.scenes import CLASSES
from mmseg_dhr.evaluation import MaskScores
from mmseg_dhr.formats import read_mask, write_mask
from mmseg_dhr.utils.config import load_config

REPO_ROOT = Path(__file__).resolve().parents[2]
CONFIG = REPO_ROOT / 'configs/dhr/scenes_r18.py'
SCENE_CLASSES = ['background', *(scene_class.name for scene_class in CLASSES)]
IDS = [f'train_{i:05d}' for i in range(6)]


class Prepared(NamedTuple):
    """A configured data set with M_base and USS features, and a checkpoint."""
    work_dir: Path
    truth: Path
    checkpoint: Path
    options: list[str]


@pytest.fixture(scope='module')
def prepared(tmp_path_factory) -> Prepared:
    folder = tmp_path_factory.mktemp('analysis')
    instances = DefaultScope._instance_dict.copy()
    options = {'model.segmentor.data_preprocessor.size': (64, 64),
               'model.segmentor.decode_head.dropout_ratio': 0.0,
               'train_dataloader.dataset.dataset.pipeline.2.transforms.0.scale': (64, 64),
               'train_dataloader.dataset.dataset.pipeline.2.transforms.1.crop_size': (64, 64),
               'train_dataloader.batch_size': 2}
    for key in ('train_dataloader.dataset', 'pseudo_label_dataset', 'val_dataloader',
                'test_dataloader'):
        options.update({f'{key}.dataset.data_root': str(folder / 'scenes'),
                        f'{key}.dataset.num_train': 6, f'{key}.dataset.num_val': 2,
                        f'{key}.dataset.size': 64})
    config = load_config(CONFIG, str(folder), options=options)
    init_default_scope('mmseg')
    dataset = build_dataset(config)  # draws the scenes
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.cam_head.classifier.weight.data.normal_()
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'weights.pth')
    write_uss_features(model.uss_encoder, dataset, folder / 'uss_features')
    other = MODELS.build(dict(type='ColorTextureUSS', stride=4, frequencies=4))
    write_uss_features(other, dataset, folder / 'other_features')
    truth = folder / 'scenes/SegmentationClass'
    for image_id in IDS:
        moved = np.roll(read_mask(truth / f'{image_id}.png'), (5, 3), (0, 1))
        write_mask(folder / 'base_masks' / f'{image_id}.png', np.where(moved == 255, 0, moved),
                   dataset.metainfo['palette'])
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(instances)
    written = [f'{key}={value}'.replace(' ', '') for key, value in options.items()]
    return Prepared(folder, truth, folder / 'weights.pth', written)


@pytest.fixture
def analyse(run_tool, prepared):
    """Runs a command on the prepared data set."""
    def run(tool: str, *arguments: object, weights: bool = True,
            options: Sequence[str] = ()) -> int:
        checkpoint = [prepared.checkpoint] if weights else []
        return run_tool(f'analysis_tools/{tool}', CONFIG, *checkpoint, *arguments, '--work-dir',
                        prepared.work_dir, '--cfg-options', *prepared.options, *options)
    return run


def figures(path: str) -> dict:
    """Read strictly: NaN is no JSON."""
    def refuse(text: str) -> None:
        raise AssertionError(f'{text} in {path}')
    return json.loads(Path(path).read_text(), parse_constant=refuse)


def scores_of(folder: Path, truth: Path) -> float:
    scores = MaskScores(9, 0)
    for image_id in IDS:
        scores.update(read_mask(folder / f'{image_id}.png'), read_mask(truth / f'{image_id}.png'))
    return scores.compute().all.miou


def test_components(analyse, prepared, capsys) -> None:
    assert analyse('ablation', '--out', 'out', '--masks', 'masks', '--rows', 'WSS',
                   'seeds + USS + WSS (DHR)', 'control: nearest USS centroid, no OT') == 0
    found = figures('out/ablation.json')
    settings = found['settings']
    assert settings['seed'] == 0 and settings['propagation']['type'] == 'DHRPropagation'
    rows = found['figures']
    assert list(rows)[0] == 'M_base' and len(rows) == 4
    base = rows['M_base']['final']['all']['miou']
    assert base == pytest.approx(scores_of(prepared.work_dir / 'base_masks', prepared.truth))
    assert {row: rows[row]['final']['all']['images'] for row in rows} == dict.fromkeys(rows, 6)
    for row, folder in (('WSS', 'WSS'), ('seeds + USS + WSS (DHR)', 'seeds_USS_WSS_DHR')):
        assert rows[row]['final']['all']['miou'] == pytest.approx(
            scores_of(Path('masks') / folder, prepared.truth))
    output = capsys.readouterr().out
    assert 'seed 0' in output and f'{base:.1f}' in output
    assert Path('out/ablation.txt').read_text().strip() in output


def test_tau(analyse) -> None:
    assert analyse('ablation', '--tables', 'tau', '--every', '3', '--out', 'out') == 0
    rows = figures('out/ablation.json')['figures']
    assert len(rows) == 1 + 2 + 11 and rows['tau 0.5']['final']['all']['images'] == 2
    assert Image.open('out/tau.png').size[0] > 100


def test_marginals_and_readings(analyse) -> None:
    assert analyse('ablation', '--tables', 'components', 'marginals', 'readings',
                   '--predicted-shares', '--every', '6', '--out', 'out') == 0
    rows = figures('out/ablation.json')['figures']
    assert {'M_base', 'oracle: true shares', 'predicted shares', 'PAMR', 'raw plan'} <= set(rows)
    assert len(rows) == 1 + 2 + 8 + 12 + 9 + 2


def test_unknown_row(analyse, capsys) -> None:
    assert analyse('ablation', '--rows', 'WSS', 'nonsense') == 2
    error = capsys.readouterr().err.strip().split('\n')[-1]
    assert "Unknown rows ['nonsense']" in error and "'USS + WSS'" in error


def test_label_probe(analyse, prepared, capsys) -> None:
    assert analyse('label_probe', prepared.work_dir / 'base_masks', '--seeds', '0', '--iters', '2',
                   '--out', 'out', '--predict', 'predicted', '--novel', 'bead', 'chip') == 0
    found = figures('out/label_probe.json')['figures']
    assert list(found) == [str(prepared.work_dir / 'base_masks'), str(prepared.truth)]
    for means, in found.values():
        assert set(means) == {'all', 'base', 'novel', 'iou'}
        assert 0 <= means['all'] <= 100
        assert {'background', 'bead'} <= set(means['iou'])
    for image_id in IDS:
        tagged = set(np.unique(read_mask(prepared.truth / f'{image_id}.png'))) | {0}
        mask = read_mask(Path('predicted') / f'{image_id}.png')
        assert mask.shape == (64, 64) and set(np.unique(mask)) <= tagged
    assert 'base_masks' in capsys.readouterr().out


def test_label_probe_on_masks_that_start_at_one(analyse, prepared) -> None:
    """As ADE20K's: 0 is no class."""
    for path in prepared.truth.glob('val_*.png'):
        mask = read_mask(path)
        write_mask(f'shifted/{path.stem}_x.png', np.where(mask == 255, 0, mask + 1),
                   [[0, 0, 0]] * 10)
    test_set = 'test_dataloader.dataset'
    shifted = [f'{test_set}.data_prefix.img_path=JPEGImages', f'{test_set}.reduce_zero_label=True',
               f'{test_set}.data_prefix.seg_map_path={Path("shifted").absolute()}',
               f'{test_set}.seg_map_suffix=_x.png']
    for out, options in (('plain', ()), ('read', shifted)):
        assert analyse('label_probe', prepared.work_dir / 'base_masks', '--seeds', '0', '--iters',
                       '2', '--no-truth', '--out', out, options=options) == 0
    plain, read = (figures(f'{out}/label_probe.json')['figures'] for out in ('plain', 'read'))
    assert plain == read


@pytest.mark.parametrize(('option', 'message'), [
    ('test_dataloader.dataset.data_prefix.img_path=JPEGImages', 'data_prefix.seg_map_path`'),
    ('test_dataloader=None', 'no `test_dataloader`')])
def test_label_probe_without_a_test(analyse, prepared, capsys, option, message) -> None:
    assert analyse('label_probe', prepared.work_dir / 'base_masks', options=[option]) == 2
    assert f'{message}, ' in capsys.readouterr().err.strip().split('\n')[-1]


def test_uss_choice(analyse, run_tool, prepared, capsys) -> None:
    assert analyse('uss_choice', f'one={prepared.work_dir / "uss_features"}',
                   f'two={prepared.work_dir / "other_features"}', '--out', 'out') == 0
    assert analyse('ablation', '--out', 'out', '--rows', 'control: nearest USS centroid, no OT',
                   'seeds + USS + WSS (DHR)') == 0
    one, two = (figures('out/uss_choice.json')['figures'][name] for name in ('one', 'two'))
    configured = figures('out/ablation.json')['figures']
    for ours, theirs in (('DHR', 'seeds + USS + WSS (DHR)'), ('M_base', 'M_base')):
        assert one[ours] == configured[theirs]  # `one` is what the config names
    assert one['M_base'] == two['M_base'] and one['DHR'] != two['DHR']
    assert run_tool('debias_masks', CONFIG, prepared.work_dir / 'base_masks', 'debiased',
                    '--features', prepared.work_dir / 'other_features', '--work-dir',
                    prepared.work_dir, '--cfg-options', *prepared.options) == 0
    debiased = two['M_base, debiased as in MARS']['final']['all']['miou']
    assert debiased == pytest.approx(scores_of(Path('debiased'), prepared.truth))
    assert debiased != two['M_base']['final']['all']['miou']
    output = capsys.readouterr().out
    assert output.count('\nM_base ') == 2  # a line in each of the two tables
    assert output.count('\nM_base, debiased as in MARS ') == 2  # one for each of the features
    assert re.search(r'\nDHR +two ', output) and 'seed 0' in output


def test_uss_choice_errors(analyse, prepared, capsys) -> None:
    assert analyse('uss_choice', 'one=nowhere') == 2
    assert 'nowhere: no such folder of USS features' in capsys.readouterr().err
    assert analyse('uss_choice', 'nowhere') == 2
    assert 'NAME=FOLDER' in capsys.readouterr().err


def test_adjacent_regions(analyse, prepared, capsys) -> None:
    foreground = list(SCENE_CLASSES[1:])
    Path('groups.json').write_text(json.dumps(dict(a=foreground[:4], b=foreground[4:])))
    assert analyse('adjacent_regions', '--groups', 'groups.json', '--reach', '1', '4', '--out',
                   'out', weights=False) == 0
    found = figures('out/adjacent_regions.json')['figures']
    assert list(found) == ['1.0', '4.0', 'inf']
    # The masks have a border of unlabelled pixels: nothing touches.
    assert found['1.0']['of_foreground'] == 0 and found['1.0']['inter'] is None
    shares = [found[reach]['of_foreground'] for reach in found]
    assert shares == sorted(shares)
    # Every pixel of an image with two classes is adjacent when the whole image is searched.
    masks = [read_mask(prepared.truth / f'{image_id}.png') for image_id in IDS]
    areas = [np.bincount(mask[(mask > 0) & (mask < 255)], minlength=9) for mask in masks]
    several = sum(area.sum() for area in areas if (area > 0).sum() > 1)
    assert shares[-1] == pytest.approx(100 * several / sum(area.sum() for area in areas))
    assert '6 true masks' in capsys.readouterr().out
    assert analyse('adjacent_regions', weights=False) == 2
    assert 'is no class of the data set' in capsys.readouterr().err


def test_adjacent_regions_errors(analyse, prepared, capsys) -> None:
    Path('groups.json').write_text(json.dumps(dict(a=SCENE_CLASSES[1:])))
    write_mask(f'wrong/{IDS[0]}.png', np.full((64, 64), 9), [[0, 0, 0]])
    Path('empty').mkdir()
    for folder, message in [('empty', 'no true mask for image'),
                            ('wrong', 'Expected labels in [0, 9)')]:
        assert analyse('adjacent_regions', '--groups', 'groups.json', weights=False,
                       options=[f'score_masks={Path(folder).absolute()}']) == 2
        line = capsys.readouterr().err.strip().split('\n')[-1]
        assert f'{folder}/{IDS[0]}.png: {message}' in line


def test_point_heatmaps(analyse, prepared, capsys) -> None:
    assert analyse('point_heatmaps', IDS[0], '--out', 'heat.png', '--points', '10,20', '63,0') == 0
    assert Image.open('heat.png').size[0] > 200
    assert f'image {IDS[0]}' in capsys.readouterr().out
    for arguments, message in [
        ((IDS[0], '--points', '64,0'), 'image of 64 x 64 pixels, but got 64,0'),
        (('nobody', ), "No image 'nobody' in the data set; ids are such as train_00000"),
    ]:
        assert analyse('point_heatmaps', *arguments) == 2
        assert message in capsys.readouterr().err


def test_point_heatmaps_at_the_peaks_of_the_cams(analyse, prepared, capsys) -> None:
    assert analyse('point_heatmaps', IDS[0], '--out', 'heat.png') == 0
    (points, ) = re.findall(r'points (\[.*?\]),', capsys.readouterr().out.replace('\n', ','))
    tags = set(np.unique(read_mask(prepared.truth / f'{IDS[0]}.png'))) - {0, 255}
    assert len(re.findall(r'\(\d+, \d+\)', points)) == len(tags)
    width, height = Image.open('heat.png').size
    assert width > 200 and height > 100 * len(tags)  # a row for each


def test_class_correlation_of_the_seeds(analyse, capsys) -> None:
    assert analyse('class_correlation', '--out', 'out') == 0
    seeds = figures('out/class_correlation.json')
    assert seeds['settings']['masks'] == 'M_init'
    assert analyse('class_correlation', '--truth', '--out', 'true') == 0
    assert seeds['figures'] != figures('true/class_correlation.json')['figures']
    assert 'masks M_init' in capsys.readouterr().out


def test_class_correlation(analyse, capsys) -> None:
    assert analyse('class_correlation', '--truth', '--out', 'out', '--pairs', '3') == 0
    found = figures('out/class_correlation.json')['figures']
    raw = np.array(found['raw'], float)
    assert len(found['classes']) == len(raw) == 9
    assert np.allclose(raw, raw.T, equal_nan=True)
    assert np.isnan(raw).any() == (np.array(found['images']) == 0).any()
    for name in ('raw', 'centred', 'linked', 'dataset_raw', 'dataset_centred'):
        assert Image.open(f'out/{name}.png').size[0] > 100
    output = capsys.readouterr().out
    assert 'true masks' in output and 'seed 0' in output


def test_training_time(analyse, prepared, capsys) -> None:
    assert analyse('training_time', '--checkpoint', prepared.checkpoint, '--iters', '2', '--out',
                   'out', weights=False) == 0
    found = figures('out/training_time.json')
    times, settings = found['figures']['iterations'], found['settings']
    assert {kind: len(seconds) for kind, seconds in times.items()} == \
        dict(given=2, online=2, parts=2)
    for parts in times['parts']:
        assert min(parts['R_C'], parts['rest of DHR'], parts['network'], parts['loading']) > 0
    assert settings['device'] and settings['threads'] == 1 and settings['batch_size'] == 2
    assert settings['data_root'] == str(prepared.truth.parent)
    ratio = found['figures']['summary']
    assert ratio['low'] <= ratio['ratio'] <= ratio['high']
    assert f'with DHR / plain: {ratio["ratio"]:.2f}' in capsys.readouterr().out


@pytest.mark.parametrize(('tool', 'arguments'), [
    ('ablation', ['weights.pth']), ('class_correlation', ['weights.pth']),
    ('dhr_report', ['--checkpoint', 'weights.pth']), ('make_pseudo_labels', ['weights.pth', 'out']),
    ('training_time', []), ('uss_choice', ['weights.pth', 'one=features'])])
def test_a_config_without_dhr(run_tool, prepared, capsys, tool, arguments) -> None:
    Path('weights.pth').symlink_to(prepared.checkpoint)
    Path('features').symlink_to(prepared.work_dir / 'uss_features')
    folder = '' if tool == 'make_pseudo_labels' else 'analysis_tools/'
    base = CONFIG.with_name('scenes_r18_base.py')
    assert run_tool(f'{folder}{tool}', base, *arguments, '--cfg-options', *prepared.options) == 2
    line = capsys.readouterr().err.strip().split('\n')[-1]
    assert line.startswith('error: Expected a config whose `model.propagation`')


def test_per_class(run_tool, prepared, capsys) -> None:
    """Table 11: folders side by side."""
    base = prepared.work_dir / 'base_masks'
    assert run_tool('evaluate_masks', base, prepared.truth, '--gt-dir', prepared.truth,
                    '--classes', *SCENE_CLASSES, '--jobs', '1', '--per-class', '--json',
                    'scores.json') == 0
    found = json.loads(Path('scores.json').read_text())
    assert list(found) == [str(base), str(prepared.truth)]
    mean = found[str(base)]['all']['miou']
    lines = [line.split() for line in capsys.readouterr().out.split('\n')]
    assert ['IoU', 'base_masks', 'SegmentationClass'] in lines
    assert ['mean', f'{mean:.2f}', '100.00'] in lines
    name, iou = next((n, v) for n, v in found[str(base)]['all']['iou'].items() if v is not None)
    assert [*name.split(), f'{iou:.2f}', '100.00'] in lines
