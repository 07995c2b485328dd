from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import runpy
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_dhr.datasets.scenes import (
    CLASSES,
    GROUPS,
    LARGE,
    SMALL,
    Scene,
    SceneParameters,
    ScenesDataset,
    draw_scene,
    write_scenes,
)
from mmseg_dhr.datasets.scenes.shapes import SHAPES, coverage, local_coordinates
from mmseg_dhr.utils import UserError

FEW = SceneParameters(num_train=5, num_val=2, size=64, seed=3)


@cache
def scenes(count: int = 120, size: int = 112) -> list[Scene]:
    return [draw_scene(np.random.default_rng([11, index]), size) for index in range(count)]


def folder_digest(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in root.rglob('*') if path.is_file()}


def dilate(region: np.ndarray) -> np.ndarray:
    """Grow a region across the ignored border line."""
    return cv2.dilate(region.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0


class TestShapes:

    @pytest.mark.parametrize('name, area', [
        ('disc', np.pi), ('box', 4 * 0.72 - (4 - np.pi) * 0.15**2), ('diamond', 2 * 1.15**2 / 1.2),
        ('dot', np.pi * 0.78**2), ('ring', np.pi * (0.98**2 - 0.46**2)), ('bar', 4 * 1.05 * 0.38),
        ('cross', 2 * 4 * 0.28 - 4 * 0.28**2), ('twin', 2 * np.pi * 0.46**2)])
    def test_area(self, name: str, area: float) -> None:
        frame = local_coordinates(400, (200., 200.), 100., 0.4)
        measured = coverage(SHAPES[name](*frame), 100.).sum() / 100.**2
        assert measured == pytest.approx(area, rel=0.01)

    def test_local_coordinates_turn_with_the_object(self) -> None:
        u, v = local_coordinates(8, (4., 4.), 2., np.pi / 2)
        # The pixel centred at (4.5, 6.5) lies 0.25 right of and 1.25 below the centre.
        assert u[6, 4] == pytest.approx(1.25, abs=1e-6)
        assert v[6, 4] == pytest.approx(-0.25, abs=1e-6)


class TestDrawScene:

    def test_types_and_shapes(self) -> None:
        scene = draw_scene(np.random.default_rng(0), 80)
        assert scene.image.shape == (80, 80, 3) and scene.image.dtype == np.uint8
        assert scene.mask.shape == (80, 80) and scene.mask.dtype == np.uint8
        assert isinstance(scene.tags, tuple) and all(type(tag) is int for tag in scene.tags)

    def test_same_generator_same_scene(self) -> None:
        first, again, other = (draw_scene(np.random.default_rng(seed)) for seed in (5, 5, 6))
        assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)
        assert not np.array_equal(first.image, other.image)

    @pytest.mark.parametrize('size', [64, 112, 161])
    def test_mask_shows_exactly_the_tags(self, size: int) -> None:
        for scene in scenes(60, size):
            assert set(np.unique(scene.mask)) - {0, 255} == set(scene.tags)
            assert scene.tags == tuple(sorted(scene.tags))
            assert 1 <= len(scene.tags) <= 4

    def test_too_small(self) -> None:
        with pytest.raises(ValueError, match='`size` to be at least 64, but got 63'):
            draw_scene(np.random.default_rng(0), 63)

    def test_border_is_thin_and_between_regions(self) -> None:
        for scene in scenes()[:40]:
            border = scene.mask == 255
            assert 0 < border.mean() < 0.06
            # A line of one pixel does not survive an opening with a 3x3 square.
            opened = cv2.morphologyEx(border.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3)))
            assert opened.mean() < 0.001
            # Regions of unlike label never touch without a border between them.
            across = np.stack([scene.mask[:, :-1], scene.mask[:, 1:]])
            assert ((across[0] == across[1]) | (across == 255).any(0)).all()


class TestStructure:
    """The facts that the class documentation promises, over many scenes."""

    def test_every_class_is_frequent(self) -> None:
        counts = {label: sum(label in scene.tags for scene in scenes())
                  for label in range(1, len(CLASSES) + 1)}
        assert min(counts.values()) > 0.15 * len(scenes())

    def test_small_classes_are_small_and_large_ones_are_not(self) -> None:
        for scene in scenes():
            for label in scene.tags:
                share = (scene.mask == label).mean()
                assert share < 0.03 if label in SMALL else share > 0.015

    def test_small_classes_touch_larger_objects(self) -> None:
        touching = [(dilate(scene.mask == label) & np.isin(scene.mask, LARGE)).any()
                    for scene in scenes() for label in scene.tags if label in SMALL]
        assert len(touching) > 40
        assert np.mean(touching) > 0.8

    def test_large_objects_are_often_adjacent(self) -> None:
        touching = []
        for scene in scenes():
            large = [label for label in scene.tags if label in LARGE]
            for label in large if len(large) > 1 else []:
                others = np.isin(scene.mask, [other for other in large if other != label])
                touching.append((dilate(scene.mask == label) & others).any())
        assert np.mean(touching) > 0.5

    def test_look_alikes_come_together(self) -> None:
        together = [any(set(group) <= set(scene.tags) for group in GROUPS) for scene in scenes()]
        assert 0.25 < np.mean(together) < 0.6

    def test_look_alikes_share_their_colour_and_groups_do_not(self) -> None:
        colours = {label: np.mean([self._chroma(scene, label) for scene in scenes()
                                   if label in scene.tags], axis=0) for label in LARGE}
        within = [np.linalg.norm(colours[first] - colours[second]) for first, second in GROUPS]
        across = [np.linalg.norm(colours[a] - colours[b]) for a in LARGE for b in LARGE
                  if not any({a, b} <= set(group) for group in GROUPS)]
        assert 4 * max(within) < min(across)

    @staticmethod
    def _chroma(scene: Scene, label: int) -> np.ndarray:
        lab = cv2.cvtColor(scene.image, cv2.COLOR_RGB2LAB).astype(float)
        return lab[scene.mask == label][:, 1:].mean(0)


class TestWriteScenes:

    def test_layout(self, tmp_path: Path) -> None:
        root = write_scenes(tmp_path / 'deep' / 'scenes', FEW, progress=False)
        lists = {split: (root / f'ImageSets/Segmentation/{split}.txt').read_text().split()
                 for split in ('train', 'val')}
        assert [len(ids) for ids in lists.values()] == [5, 2]
        labels = json.loads((root / 'image_labels.json').read_text())
        assert list(labels) == lists['train'] + lists['val']
        names = ScenesDataset.METAINFO['classes']
        for image_id, tags in labels.items():
            mask = Image.open(root / f'SegmentationClass/{image_id}.png')
            assert mask.mode == 'P' and mask.size == (64, 64)
            found = set(np.unique(np.asarray(mask))) - {0, 255}
            assert sorted(tags) == sorted(names[label] for label in found)
        palette = Image.open(root / 'SegmentationClass/val_00001.png').getpalette()
        assert palette[:27] == [value for colour in ScenesDataset.METAINFO['palette']
                                for value in colour]
        assert not list(root.parent.glob('.*'))

    def test_files_hold_the_drawn_scenes(self, tmp_path: Path) -> None:
        root = write_scenes(tmp_path / 'scenes', FEW, progress=False)
        scene = draw_scene(np.random.default_rng([FEW.seed, 1, 1]), FEW.size)
        image = np.asarray(Image.open(root / 'JPEGImages/val_00001.png'))
        mask = np.asarray(Image.open(root / 'SegmentationClass/val_00001.png'))
        assert np.array_equal(image, scene.image) and np.array_equal(mask, scene.mask)

    def test_seed_decides_every_byte(self, tmp_path: Path) -> None:
        other_seed = SceneParameters(num_train=5, num_val=2, size=64, seed=4)
        first, again, other = (folder_digest(write_scenes(tmp_path / name, parameters, False))
                               for name, parameters in (('a', FEW), ('b', FEW), ('c', other_seed)))
        assert first == again
        images = [name for name in first if name.startswith('JPEGImages')]
        assert len(images) == 7 and all(first[name] != other[name] for name in images)

    def test_more_images_begin_with_the_same_ones(self, tmp_path: Path) -> None:
        few = folder_digest(write_scenes(tmp_path / 'few', FEW, False))
        more = folder_digest(write_scenes(
            tmp_path / 'more', SceneParameters(num_train=6, num_val=3, size=64, seed=3), False))
        pictures = [name for name in few if name.endswith('.png')]
        assert len(pictures) == 14 and all(few[name] == more[name] for name in pictures)

    def test_existing_folder_is_used_again(self, tmp_path: Path) -> None:
        root = write_scenes(tmp_path / 'scenes', FEW, False)
        (root / 'JPEGImages/train_00000.png').write_bytes(b'kept')
        write_scenes(root, FEW, False)
        assert (root / 'JPEGImages/train_00000.png').read_bytes() == b'kept'

    def test_empty_folder_is_filled(self, tmp_path: Path) -> None:
        (tmp_path / 'scenes').mkdir()
        assert (write_scenes(tmp_path / 'scenes', FEW, False) / 'scenes.json').is_file()

    def test_other_parameters_are_refused(self, tmp_path: Path) -> None:
        root = write_scenes(tmp_path / 'scenes', FEW, False)
        before = folder_digest(root)
        with pytest.raises(UserError, match='num_val 2 instead of 3, seed 3 instead of 0'):
            write_scenes(root, SceneParameters(num_train=5, num_val=3, size=64), False)
        assert folder_digest(root) == before

    def test_foreign_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / 'holiday.jpg').write_bytes(b'photo')
        with pytest.raises(UserError, match='has no scenes.json'):
            write_scenes(tmp_path, FEW, False)
        assert [path.name for path in tmp_path.iterdir()] == ['holiday.jpg']

    def test_failure_leaves_nothing_behind(self, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cv2, 'imwrite', lambda *args: False)
        with pytest.raises(OSError, match='Could not write'):
            write_scenes(tmp_path / 'scenes', FEW, False)
        assert not list(tmp_path.iterdir())

    def test_slower_process_uses_the_folder_of_the_faster(self, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
        from mmseg_dhr.datasets.scenes import writer
        write_all = writer._write_all

        def overtaken(*args: object) -> None:
            monkeypatch.setattr(writer, '_write_all', write_all)
            write_all(*args)
            write_scenes(tmp_path / 'scenes', FEW, False)
            (tmp_path / 'scenes/first').touch()

        monkeypatch.setattr(writer, '_write_all', overtaken)
        write_scenes(tmp_path / 'scenes', FEW, False)
        assert (tmp_path / 'scenes/first').is_file()
        assert [path.name for path in tmp_path.iterdir()] == ['scenes']

    def test_two_processes_at_once(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context('fork')
        workers = [context.Process(target=write_scenes, args=(tmp_path / 'scenes', FEW, False))
                   for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0]
        alone = write_scenes(tmp_path / 'alone', FEW, False)
        assert folder_digest(tmp_path / 'scenes') == folder_digest(alone)
        assert sorted(path.name for path in tmp_path.iterdir()) == ['alone', 'scenes']

    @pytest.mark.parametrize('name, value', [('num_train', 0), ('num_val', -1), ('size', 63),
                                             ('seed', -1)])
    def test_bad_parameters(self, name: str, value: int) -> None:
        with pytest.raises(UserError, match=f'`{name}` to be at least {value + 1}, but got'):
            SceneParameters(**{name: value})


class TestScenesDataset:

    def config(self, root: Path, **kwargs: object) -> dict:
        return dict(type='ScenesDataset', data_root=str(root), num_train=5, num_val=2, size=64,
                    seed=3, **kwargs)

    def test_builds_and_loads(self, tmp_path: Path, mmseg_modules: None) -> None:
        dataset = DATASETS.build(self.config(
            tmp_path / 'scenes', ann_file='ImageSets/Segmentation/val.txt', test_mode=True,
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
                      dict(type='PackSegInputs')]))
        assert len(dataset) == 2
        assert dataset.metainfo['classes'][:2] == ('background', 'ring_disc')
        sample = dataset[1]
        scene = draw_scene(np.random.default_rng([3, 1, 1]), 64)
        # mmcv reads images as BGR.
        assert np.array_equal(sample['inputs'].numpy()[::-1].transpose(1, 2, 0), scene.image)
        assert np.array_equal(sample['data_samples'].gt_sem_seg.data[0].numpy(), scene.mask)

    def test_trains_on_the_train_list_by_default(self, tmp_path: Path) -> None:
        dataset = DATASETS.build(self.config(tmp_path / 'scenes'))
        assert len(dataset) == 5
        assert Path(dataset.get_data_info(0)['img_path']).name == 'train_00000.png'

    def test_lazy_init_draws_nothing(self, tmp_path: Path) -> None:
        dataset = DATASETS.build(self.config(tmp_path / 'scenes', lazy_init=True))
        assert not (tmp_path / 'scenes').exists()
        dataset.full_init()
        assert len(dataset) == 5

    def test_palette_fits_the_classes(self) -> None:
        meta = ScenesDataset.METAINFO
        assert len(meta['classes']) == len(meta['palette']) == 9
        assert len({tuple(colour) for colour in meta['palette']}) == 9


def test_command(tmp_path: Path, repo_root: Path, capsys: pytest.CaptureFixture) -> None:
    tool = runpy.run_path(str(repo_root / 'tools/dataset_converters/draw_scenes.py'))
    root = tmp_path / 'scenes'
    tool['main']([str(root), '--num-train', '2', '--num-val', '1', '--size', '64'])
    assert '2 train and 1 val scenes, 64x64 pixels, seed 0' in capsys.readouterr().out
    assert len(list((root / 'JPEGImages').iterdir())) == 3
    (tmp_path / 'damaged').mkdir()
    (tmp_path / 'damaged/scenes.json').write_text('{"version"')
    for arguments, message in [
            (['scenes', '--size', '80'], 'error: The scenes in .* size 64 instead of 80'),
            (['scenes', '--seed', '-1'], 'error: Expected `seed` to be at least 0'),
            (['damaged'], r'error: .*damaged/scenes\.json: expected the parameters')]:
        with pytest.raises(SystemExit) as stop:
            tool['main']([str(tmp_path / arguments[0]), *arguments[1:]])
        assert stop.value.code == 2 and re.search(message, capsys.readouterr().err)
