from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from mmseg.registry import DATASETS

from mmseg_dhr.apis import debiasing, list_photos
from mmseg_dhr.apis.debiasing import DebiasSettings, learn_debiaser, write_debiased_masks
from mmseg_dhr.formats import Manifest, read_mask, write_features, write_mask
from mmseg_dhr.utils import UserError

PLAIN = DebiasSettings(clusters=2, keep=0.5, center=False)
RAILS, TRAIN, GRASS, SKY = np.eye(4)
PALETTE = [[0, 0, 0], [255, 0, 0], [0, 255, 0]]


def cells(*names):
    """Features (4, 1, n) of a row of cells."""
    return torch.from_numpy(np.stack(names, 1)[:, None]).float()


@pytest.fixture
def folders(tmp_path):
    """Masks and features of four images, each a row of four cells of 4 x 4 pixels."""
    images = dict(  # the mask of a train takes the rails; rails without a train are background
        a=(cells(TRAIN, RAILS, GRASS, SKY), [1, 1, 0, 0]),
        b=(cells(TRAIN, TRAIN, RAILS, GRASS), [1, 1, 1, 0]),
        c=(cells(RAILS, RAILS, GRASS, GRASS), [0, 0, 2, 2]),
        d=(cells(RAILS, RAILS, RAILS, RAILS), [0, 0, 255, 0]))
    for name, (features, labels) in images.items():
        write_features(tmp_path / 'features' / f'{name}.safetensors', features)
        write_mask(tmp_path / 'masks' / f'{name}.png',
                   np.kron([labels], np.ones((4, 4))).astype(np.uint8), PALETTE)
    return tmp_path


@pytest.fixture
def rows(folders, mmseg_modules):
    """Builds the data set of these images."""
    tags = dict(a=['train'], b=['train'], c=['grass'], d=[])
    (folders / 'labels.json').write_text(json.dumps(tags))
    for name in tags:
        write_mask(folders / 'images' / f'{name}.png', np.zeros((4, 16), np.uint8), PALETTE)

    def build(**options):
        classes = ('background', 'train', 'grass')
        return DATASETS.build(dict(
            type='TaggedDataset', labels=dict(type='json', path='labels.json', allow_empty=True),
            dataset=dict(type='BaseSegDataset', data_root=str(folders), img_suffix='.png',
                         data_prefix=dict(img_path='images'), pipeline=[], serialize_data=False,
                         metainfo=dict(classes=classes, palette=PALETTE)), **options))

    return build


def debias(dataset, folders, settings=PLAIN, out='out', **options):
    write_debiased_masks(dataset, folders / 'masks', folders / 'features', folders / out, settings,
                         **options)
    return {photo.img_id: read_mask(folders / out / f'{photo.img_id}.png')
            for photo in list_photos(dataset)}


def test_rails_are_removed(rows, folders) -> None:
    masks = debias(rows(), folders)
    # The border lies where the similarity, linear between the cells' centres, is a half.
    assert [masks[name][0].tolist() for name in 'abcd'] == [
        [1] * 4 + [0] * 12, [1] * 8 + [0] * 8, [0] * 8 + [2] * 8, [0] * 8 + [255] * 4 + [0] * 4]
    assert all((mask == mask[:1]).all() for mask in masks.values())


def test_centroids(rows, folders) -> None:
    learned = learn_debiaser(rows(), folders / 'masks', folders / 'features', PLAIN)
    # Of the candidates train and rails (twice), half: the trains. The only one of grass.
    assert {label: some.tolist() for label, some in learned.centroids.items()} == {
        1: [TRAIN.tolist()] * 2, 2: [GRASS.tolist()]}


def test_center(rows, folders) -> None:
    """A direction that all features share changes nothing if they are centred."""
    def learn(center: bool) -> torch.Tensor:
        settings = PLAIN._replace(center=center)
        return learn_debiaser(rows(), folders / 'masks', folders / 'features', settings).centroids

    plain, raw = learn(True)[1], learn(False)[1]
    for path in (folders / 'features').iterdir():
        features = debiasing.read_features(path)
        write_features(path, features.float() + torch.tensor([0., 0., 8., 8.])[:, None, None])
    torch.testing.assert_close(learn(True)[1], plain)
    assert (learn(False)[1] - raw).abs().max() > 0.5


def test_ignore(rows, folders) -> None:
    plain, ignoring = debias(rows(), folders), debias(rows(), folders,
                                                      PLAIN._replace(ignore=True), 'ignoring')
    for name in 'abcd':
        before = read_mask(folders / 'masks' / f'{name}.png')
        removed = plain[name] != before
        assert np.array_equal(ignoring[name], np.where(removed, 255, before))


def test_killed_and_run_again(rows, folders, monkeypatch) -> None:
    whole = debias(rows(), folders, out='whole')
    real, made = debiasing.write_mask, []

    def stop_at_third(path, *args):
        made.append(path)
        if len(made) >= 3:  # the next may have begun before the stop is noticed
            raise KeyboardInterrupt
        real(path, *args)

    monkeypatch.setattr(debiasing, 'write_mask', stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        debias(rows(), folders)
    assert not Manifest.load(folders / 'out').complete
    made.clear()
    monkeypatch.setattr(debiasing, 'write_mask',
                        lambda path, *args: made.append(path) or real(path, *args))
    again = debias(rows(), folders)
    assert len(made) == 2  # those that were missing
    assert Manifest.load(folders / 'out').complete
    assert all(np.array_equal(whole[name], again[name]) for name in 'abcd')
    monkeypatch.setattr(debiasing, '_learn', None)
    debias(rows(), folders)  # nothing to do, nothing to learn


@pytest.mark.parametrize('change', ['masks', 'settings', 'features'])
def test_other_inputs(rows, folders, change) -> None:
    debias(rows(), folders)
    settings = PLAIN
    if change == 'masks':
        write_mask(folders / 'masks/d.png', np.zeros((4, 16), np.uint8), PALETTE)
    elif change == 'settings':
        settings = PLAIN._replace(threshold=0.4)
    else:
        Manifest(dict(kind='uss')).save(folders / 'features')
    with pytest.raises(UserError, match='made with other settings'):
        debias(rows(), folders, settings)
    debias(rows(), folders, settings, overwrite=True)


class TestErrors:

    def test_same_folder(self, rows, folders) -> None:
        with pytest.raises(UserError, match='it is read here'):
            debias(rows(), folders, out='masks')

    def test_no_background_class(self, rows, folders) -> None:
        (folders / 'labels.json').write_text(json.dumps(dict.fromkeys('abcd', ['train'])))
        with pytest.raises(UserError, match='with a background class'):
            debias(rows(background_index=None), folders)

    def test_features_missing(self, rows, folders) -> None:
        (folders / 'features/b.safetensors').unlink()
        with pytest.raises(UserError, match='1 of 4 images have no USS features, among them b'):
            debias(rows(), folders)
        shutil.rmtree(folders / 'features')
        with pytest.raises(UserError, match='4 of 4 images have no USS features'):
            debias(rows(), folders)

    def test_mask_missing(self, rows, folders) -> None:
        (folders / 'masks/b.png').unlink()
        with pytest.raises(UserError, match='1 of 4 images have no .png file: b'):
            debias(rows(), folders)

    @pytest.mark.parametrize('label', [1, 255])
    def test_no_background_pixel(self, rows, folders, label) -> None:
        for name in 'abcd':
            write_mask(folders / 'masks' / f'{name}.png', np.full((4, 16), label, np.uint8),
                       PALETTE)
        with pytest.raises(UserError, match='expected masks with background pixels'):
            debias(rows(), folders)
