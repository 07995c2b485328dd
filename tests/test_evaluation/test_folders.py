from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mmseg.datasets.transforms import LoadAnnotations

from mmseg_dhr.evaluation import MaskPair, MaskScores, list_pairs, match_masks, score_pairs
from mmseg_dhr.formats import write_mask
from mmseg_dhr.utils import UserError

PALETTE = [[i, i, i] for i in range(4)]


class Infos:
    """The part of a data set that is read here."""

    def __init__(self, *infos: dict) -> None:
        self.infos = infos

    def __len__(self) -> int:
        return len(self.infos)

    def get_data_info(self, index: int) -> dict:
        return dict(self.infos[index])


def write_masks(folder: Path, count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = [rng.choice([0, 1, 2, 3, 255], (4, 6)).astype(np.uint8) for _ in range(count)]
    for i, mask in enumerate(masks):
        write_mask(folder / f'{i}.png', mask, PALETTE)
    return masks


@pytest.mark.parametrize('jobs', [1, 2])
def test_score_pairs_equals_one_accumulator(tmp_path, jobs):
    preds = write_masks(tmp_path / 'pred', 20, 0)  # more than one chunk
    gts = write_masks(tmp_path / 'gt', 20, 1)
    expected = MaskScores(4)
    for pred, gt in zip(preds, gts, strict=True):
        expected.update(pred, gt)
    pairs = [MaskPair(str(i), str(tmp_path / f'pred/{i}.png'), str(tmp_path / f'gt/{i}.png'))
             for i in range(20)]
    scores = score_pairs(pairs, 4, jobs=jobs, progress=False)
    for ours, reference in zip(scores.compute(), expected.compute(), strict=True):
        np.testing.assert_equal(ours._asdict(), reference._asdict())


def test_match_masks(tmp_path):
    write_masks(tmp_path, 3, 0)
    (tmp_path / 'manifest.json').write_text('{}')
    assert match_masks(tmp_path, ['1', '2', '7']) == (['1', '2'], ['7'], ['0'])
    assert match_masks(tmp_path) == (['0', '1', '2'], [], [])


def test_match_masks_errors(tmp_path):
    with pytest.raises(UserError, match='absent: expected a folder of masks'):
        match_masks(tmp_path / 'absent')
    with pytest.raises(UserError, match='such as a.png, but found no PNG file'):
        match_masks(tmp_path, ['a'])
    write_masks(tmp_path, 2, 0)
    with pytest.raises(UserError, match='such as a.png, but found 0, 1'):
        match_masks(tmp_path, ['a'])


@pytest.mark.parametrize('reduce_zero_label', [False, True])
@pytest.mark.parametrize('label_map', [None, {1: 0, 2: 1, 0: 255}])
def test_labels_are_changed_as_mmseg_does(tmp_path, reduce_zero_label, label_map):
    write_masks(tmp_path, 1, 3)
    info = dict(img_path='x/0.jpg', seg_map_path=str(tmp_path / '0.png'), label_map=label_map,
                reduce_zero_label=reduce_zero_label, seg_fields=[])
    expected = LoadAnnotations(imdecode_backend='pillow')(dict(info))['gt_seg_map']
    (pair, ), _ = list_pairs(Infos(info), tmp_path)
    mask = LoadAnnotations(imdecode_backend='pillow')(
        {**info, 'label_map': None, 'reduce_zero_label': False})['gt_seg_map']
    ours = mask if pair.lookup is None else np.array(pair.lookup, np.uint8)[mask]
    np.testing.assert_array_equal(ours, expected)


def test_list_pairs(tmp_path):
    write_masks(tmp_path / 'pred', 2, 0)
    infos = Infos(dict(img_path='i/0.jpg', seg_map_path='gt/0.png', image_labels=(1, )),
                  dict(img_path='i/5.jpg', seg_map_path='gt/5.png', image_labels=(2, )))
    pairs, matching = list_pairs(infos, tmp_path / 'pred')
    assert pairs == [MaskPair('0', str(tmp_path / 'pred/0.png'), 'gt/0.png', (1, ))]
    assert (matching.missing, matching.surplus) == (['5'], ['1'])
    pairs, _ = list_pairs(infos, tmp_path / 'pred', 'other')
    assert pairs[0].gt == 'other/0.png'
    with pytest.raises(UserError, match='--gt-dir'):
        list_pairs(Infos(dict(img_path='i/0.jpg')), tmp_path / 'pred')


def test_errors_name_the_image(tmp_path):
    write_masks(tmp_path, 1, 0)
    file = str(tmp_path / '0.png')
    with pytest.raises(UserError, match=r'^0: no such mask: .*absent.png'):
        score_pairs([MaskPair('0', file, str(tmp_path / 'absent.png'))], 4, progress=False)
    write_mask(tmp_path / 'large.png', np.zeros((9, 9), np.uint8), PALETTE)
    with pytest.raises(UserError, match=r'^0 \(.*large.png\): Expected prediction .*one shape'):
        score_pairs([MaskPair('0', file, str(tmp_path / 'large.png'))], 4, progress=False)
    (tmp_path / 'broken.png').write_bytes(b'no image')
    with pytest.raises(UserError, match='broken.png: not a complete image'):
        score_pairs([MaskPair('0', str(tmp_path / 'broken.png'), file)], 4, jobs=2, progress=False)
