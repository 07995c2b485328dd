from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_dhr.apis import (
    AgreementSettings,
    BaseMaskSettings,
    WalkSettings,
    list_photos,
    mask_from_cam,
    read_rgb,
    write_affinity_labels,
    write_affinity_masks,
)
from mmseg_dhr.apis.affinity_masks import (
    agreed_mask,
    mask_from_walk,
    settings_from,
    walked_scores,
)
from mmseg_dhr.formats import Manifest, read_cam, read_mask, write_cam, write_mask
from mmseg_dhr.utils import UserError


class Still(nn.Module):
    """A network along whose affinities nothing moves: scores on a grid of stride 8, halved."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.asked: list[tuple] = []

    def rgb_to_inputs(self, images: Tensor) -> Tensor:
        return images.float()

    def walk(self, inputs: Tensor, scores: Tensor, beta: float, num_steps: int, radius: int,
             boundary: Tensor | None, boundary_threshold: float) -> Tensor:
        assert boundary is None
        self.asked.append((tuple(inputs.shape), scores.shape[1], beta, num_steps, radius))
        size = [-(-side // 8) for side in inputs.shape[-2:]]
        return F.interpolate(scores, size=size, mode='bilinear', antialias=True) / 2


def smooth_cam(labels: int, grid: tuple[int, int], seed: int = 0) -> np.ndarray:
    coarse = torch.rand(1, labels, 3, 3, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=grid, mode='bilinear')[0].numpy() if labels else \
        np.zeros((0, *grid), np.float32)


@pytest.fixture
def cam_dir(photos: Any, tmp_path: Path) -> Path:
    """CAMs of the three photographs on a grid of stride 4."""
    for i, photo in enumerate(list_photos(photos)):
        height, width = read_rgb(photo.path).shape[:2]
        write_cam(tmp_path / 'cams' / f'{photo.img_id}.npz', np.array(photo.tags, np.int64),
                  smooth_cam(len(photo.tags), (-(-height // 4), -(-width // 4)), i))
    return tmp_path / 'cams'


class TestWalkedScores:
    IMAGES = np.zeros((2, 24, 32, 3), np.uint8)

    def test_background_walks_along(self) -> None:
        cams = [smooth_cam(2, (6, 8)), smooth_cam(1, (24, 32))]
        model = Still()
        got = walked_scores(model, self.IMAGES, cams, WalkSettings(7, 5, 3, background_power=2))
        assert [tuple(one.shape) for one in got] == [(3, 3, 4), (2, 3, 4)]
        assert model.asked == [((2, 3, 24, 32), 3, 7, 5, 3)]
        for one, cam in zip(got, cams, strict=True):
            full = F.interpolate(torch.from_numpy(np.stack([(1 - cam.max(0))**2, *cam]))[None],
                                 size=(24, 32), mode='bilinear')
            expected = F.interpolate(full, size=(3, 4), mode='bilinear', antialias=True)[0] / 2
            torch.testing.assert_close(one, expected)

    def test_constant_background_is_a_share_of_the_maximum(self) -> None:
        cam = smooth_cam(2, (6, 8))
        settings = WalkSettings(background_power=None, background_constant=0.25, cam_power=1.5)
        got, = walked_scores(Still(), self.IMAGES[:1], [cam], settings)
        plain, = walked_scores(Still(), self.IMAGES[:1], [cam**1.5],
                               settings._replace(cam_power=1.0))
        assert got.shape == (2, 3, 4) and got.max() == 1
        torch.testing.assert_close(got, plain)

    def test_nothing_to_walk(self) -> None:
        settings = WalkSettings(background_power=None, background_constant=0.25)
        model = Still()
        got, = walked_scores(model, self.IMAGES[:1], [smooth_cam(0, (6, 8))], settings)
        assert len(got) == 0 and not model.asked
        assert not mask_from_walk(self.IMAGES[0], got, (), settings).any()

    @pytest.mark.parametrize('constant', [None, 0.25])
    def test_one_background(self, constant: float | None) -> None:
        power = None if constant is None else 16.0
        settings = WalkSettings(background_power=power, background_constant=constant)
        with pytest.raises(ValueError, match='exactly one'):
            walked_scores(Still(), self.IMAGES[:1], [smooth_cam(1, (6, 8))], settings)


class TestMasks:

    def test_the_background_that_walked_wins_where_it_is_highest(self) -> None:
        scores = torch.zeros(3, 2, 2)
        scores[0, 0], scores[1, 1, 0], scores[2, 1, 1] = 1, 1, 1
        mask = mask_from_walk(np.zeros((2, 2, 3), np.uint8), scores, (4, 9), WalkSettings())
        assert mask.tolist() == [[0, 0], [4, 9]]

    def test_agreement(self) -> None:
        """Without a CRF, by hand: sure background, unsure, sure object, unsure which."""
        cam = np.array([[[0.01, 0.2, 0.9, 0.6]], [[0.0, 0.0, 0.1, 0.5]]], np.float32)
        image = np.zeros((1, 4, 3), np.uint8)
        settings = AgreementSettings(None, (0.55, 0.05), crf=None)
        assert agreed_mask(image, cam, (3, 5), settings).tolist() == [[0, 255, 3, 3]]
        powers = AgreementSettings((1.0, 32.0), crf=None)
        assert agreed_mask(image, cam, (3, 5), powers).tolist() == [[0, 255, 3, 3]]

    def test_one_kind_of_backgrounds(self) -> None:
        with pytest.raises(ValueError, match='exactly one'):
            AgreementSettings((4, 32), (0.3, 0.05)).masks()


class TestFolders:

    def test_labels(self, photos: Any, cam_dir: Path, tmp_path: Path) -> None:
        settings = AgreementSettings(None, (0.6, 0.3), crf=dict(iterations=2))
        out = write_affinity_labels(photos, tmp_path / 'out', cam_dir, settings)
        assert Manifest.load(out).complete
        for photo in list_photos(photos):
            image, (labels, maps) = read_rgb(photo.path), read_cam(cam_dir / f'{photo.img_id}.npz')
            one, two = (mask_from_cam(image, maps, labels.tolist(),
                                      BaseMaskSettings(c, None, dict(iterations=2)))
                        for c in (0.6, 0.3))
            expected = np.where(one == two, one, 255)
            np.testing.assert_array_equal(read_mask(out / f'{photo.img_id}.png'), expected)
        assert 255 in read_mask(out / 'a.png')

    @pytest.mark.parametrize('settings', [
        WalkSettings(), WalkSettings(crf=dict(iterations=2)),
        WalkSettings(background_power=None, background_constant=0.25)])
    def test_masks(self, photos: Any, cam_dir: Path, tmp_path: Path,
                   settings: WalkSettings) -> None:
        out = write_affinity_masks(Still(), photos, tmp_path / 'out', cam_dir, settings)
        assert Manifest.load(out).complete
        for photo in list_photos(photos):
            image, (labels, maps) = read_rgb(photo.path), read_cam(cam_dir / f'{photo.img_id}.npz')
            scores, = walked_scores(Still(), image[None], [maps], settings)
            expected = mask_from_walk(image, scores, labels.tolist(), settings)
            np.testing.assert_array_equal(read_mask(out / f'{photo.img_id}.png'), expected)

    def test_goes_on_and_refuses_other_settings(self, photos: Any, cam_dir: Path,
                                                tmp_path: Path) -> None:
        out = write_affinity_masks(Still(), photos, tmp_path / 'out', cam_dir, WalkSettings())
        kept = (out / 'a.png').stat().st_mtime_ns
        (out / 'b.png').unlink()
        write_affinity_masks(Still(), photos, out, cam_dir, WalkSettings())
        assert (out / 'b.png').is_file() and (out / 'a.png').stat().st_mtime_ns == kept
        with pytest.raises(UserError, match='beta was 8.0 and is now 9.0'):
            write_affinity_masks(Still(), photos, out, cam_dir, WalkSettings(beta=9.0))

    def test_its_own_cams_are_spared(self, photos: Any, cam_dir: Path) -> None:
        before = sorted(cam_dir.iterdir())
        with pytest.raises(UserError, match='it is read here'):
            write_affinity_masks(Still(), photos, cam_dir, cam_dir, WalkSettings(), maps=True,
                                 overwrite=True)
        assert sorted(cam_dir.iterdir()) == before

    def test_maps(self, photos: Any, cam_dir: Path, tmp_path: Path) -> None:
        out = write_affinity_masks(Still(), photos, tmp_path / 'out', cam_dir, WalkSettings(),
                                   maps=True)
        labels, maps = read_cam(out / 'a.npz')
        assert labels.tolist() == [1, 2] and maps.shape == (2, 6, 5)
        scores, = walked_scores(Still(), read_rgb(list_photos(photos)[0].path)[None],
                                [read_cam(cam_dir / 'a.npz').maps], WalkSettings())
        np.testing.assert_allclose(maps, scores[1:].numpy(), atol=1e-3)

    def test_batches_are_the_same(self, scenes: Any, tmp_path: Path) -> None:
        for i, photo in enumerate(list_photos(scenes)):
            write_cam(tmp_path / 'cams' / f'{photo.img_id}.npz', np.array(photo.tags, np.int64),
                      smooth_cam(len(photo.tags), (16, 16), i))
        folders = [write_affinity_masks(Still(), scenes, tmp_path / str(size), tmp_path / 'cams',
                                        WalkSettings(), batch_size=size) for size in (1, 4)]
        for photo in list_photos(scenes):
            one, four = (read_mask(folder / f'{photo.img_id}.png') for folder in folders)
            np.testing.assert_array_equal(one, four)

    def test_cams_of_psa(self, photos: Any, tmp_path: Path) -> None:
        """A pickled dict, classes counted from 0 over the foreground; as our own CAMs."""
        masks = []
        for kind in ('psa', 'own'):
            for i, photo in enumerate(list_photos(photos)):
                size = read_rgb(photo.path).shape[:2]
                maps = smooth_cam(len(photo.tags), size, i).astype(np.float16)
                folder = tmp_path / f'cams_{kind}'
                folder.mkdir(exist_ok=True)
                if kind == 'psa':
                    np.save(folder / f'{photo.img_id}.npy', {
                        tag - 1: one for tag, one in zip(photo.tags, maps, strict=True)})
                else:
                    write_cam(folder / f'{photo.img_id}.npz', np.array(photo.tags), maps)
            out = write_affinity_masks(Still(), photos, tmp_path / kind, tmp_path / f'cams_{kind}',
                                       WalkSettings())
            masks.append([read_mask(out / f'{photo.img_id}.png') for photo in list_photos(photos)])
        for one, other in zip(*masks, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_masks_do_not_walk(self, photos: Any, tmp_path: Path) -> None:
        for photo in list_photos(photos):
            size = read_rgb(photo.path).shape[:2]
            write_mask(tmp_path / 'masks' / f'{photo.img_id}.png', np.zeros(size, np.uint8),
                       [[0, 0, 0]])
        with pytest.raises(UserError, match='expected activation maps'):
            write_affinity_masks(Still(), photos, tmp_path / 'out', tmp_path / 'masks',
                                 WalkSettings())


class TestSettings:

    def test_of_a_config(self) -> None:
        assert settings_from(dict(walk=dict(beta=3)), 'walk', WalkSettings).beta == 3

    @pytest.mark.parametrize('config, message', [
        ({}, 'psa_vocmini'), (dict(walk=dict(betta=3)), 'found betta')])
    def test_errors(self, config: dict, message: str) -> None:
        with pytest.raises(UserError, match=message):
            settings_from(config, 'walk', WalkSettings)
