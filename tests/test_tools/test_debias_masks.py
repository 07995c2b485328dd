"""The command that debiases masks, on six tiny scenes; see tests/test_apis/test_debiasing.py."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmseg_dhr.apis import write_uss_features
from mmseg_dhr.formats import Manifest, read_mask, write_mask
from mmseg_dhr.models import ColorTextureUSS


@pytest.fixture
def debias(run_tool, repo_root, scenes_root, tagged_scenes, mmseg_modules, capfd):
    """Runs the command on moved masks; returns its exit code and the last line of its errors."""
    from mmseg.registry import DATASETS

    dataset = DATASETS.build(tagged_scenes([dict(type='LoadImageFromFile')]))
    write_uss_features(ColorTextureUSS(frequencies=4), dataset, 'features')
    for image_id in dataset.image_ids:
        moved = np.roll(read_mask(scenes_root / f'SegmentationClass/{image_id}.png'), 6, 0)
        write_mask(Path('masks') / f'{image_id}.png', np.where(moved == 255, 0, moved),
                   dataset.metainfo['palette'])

    def run(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        code = run_tool(
            'debias_masks', repo_root / 'configs/dhr/scenes_r18.py', 'masks', *arguments,
            '--cfg-options', *(f'pseudo_label_dataset.dataset.{option}' for option in (
                f'data_root={scenes_root}', 'num_train=6', 'num_val=2', 'size=64')))
        return code, capfd.readouterr().err.strip().split('\n')[-1]

    return run


def test_masks(debias) -> None:
    assert debias('out', '--features', 'features', '--threshold', '0.4')[0] == 0
    names = sorted(path.name for path in Path('masks').iterdir())
    removed = 0
    for name in names:
        before, after = read_mask(Path('masks') / name), read_mask(Path('out') / name)
        assert np.isin(after[after != before], 0).all()
        removed += (after != before).sum()
    assert removed > 0 and Manifest.load('out').complete
    code, line = debias('out', '--features', 'features', '--ignore')
    assert code == 2 and 'threshold was 0.4 and is now 0.5' in line and '--overwrite' in line
    assert debias('out', '--features', 'features', '--ignore', '--overwrite')[0] == 0
    assert any((read_mask(Path('out') / name) == 255).any() for name in names)


def test_folders(debias) -> None:
    code, line = debias('out', '--features', 'absent')
    assert code == 2 and line.startswith('error: absent: 6 of 6 images have no USS features')
    code, line = debias('masks', '--features', 'features')
    assert code == 2 and line.startswith('error: masks: it is read here')


@pytest.mark.parametrize(('arguments', 'message'), [
    ([], 'required: --features'),
    (['--features', 'features', '--keep', '0'], '--keep must be above 0'),
    (['--features', 'features', '--threshold', '1'], '--threshold must be'),
    (['--features', 'features', '--clusters', '0'], '--clusters: expected a whole number'),
])
def test_arguments(run_tool, capfd, arguments, message) -> None:
    assert run_tool('debias_masks', 'config.py', 'masks', 'out', *arguments) == 2
    assert message in capfd.readouterr().err
