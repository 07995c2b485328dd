"""Scores of a folder of masks."""
from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ..formats import read_mask
from ..utils import UserError
from .scores import MaskScores

__all__ = ['MaskPair', 'Matching', 'list_pairs', 'match_masks', 'score_pairs']

_CHUNK = 16  # images per task of a process


class MaskPair(NamedTuple):
    """A predicted mask and what it is compared with.

    Attributes:
        image_id: Stem of the image's file name.
        pred: File of the prediction.
        gt: File of the ground truth.
        tags: Foreground classes of the image; None takes those that the ground truth shows.
        lookup: New label of each of the 256 labels in the file ``gt``; None changes nothing.
    """
    image_id: str
    pred: str
    gt: str
    tags: tuple[int, ...] | None = None
    lookup: tuple[int, ...] | None = None


class Matching(NamedTuple):
    """Which masks a folder holds, as sorted image ids.

    Attributes:
        common: Expected and there.
        missing: Expected, but not there.
        surplus: There, but not expected.
    """
    common: list[str]
    missing: list[str]
    surplus: list[str]


def match_masks(folder: str | os.PathLike, ids: Iterable[str] | None = None) -> Matching:
    """Compare the masks ``{id}.png`` of a folder with a list of image ids.

    Args:
        folder (str | PathLike): Folder of masks.
        ids (Iterable[str], optional): Expected ids; None expects what is there.

    Raises:
        UserError: If there is no such folder, or none of the expected masks is in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f'{folder}: expected a folder of masks {{image id}}.png, but found none.')
    found = {file.stem for file in folder.glob('*.png')}
    expected = found if ids is None else set(ids)
    if not found & expected:
        example = min(expected, default='{image id}')
        raise UserError(f'{folder}: expected masks such as {example}.png, but found '
                        f'{", ".join(sorted(found)[:3]) or "no PNG file"}.')
    return Matching(sorted(found & expected), sorted(expected - found), sorted(found - expected))


def list_pairs(dataset: Any, pred_dir: str | os.PathLike,
               gt_dir: str | os.PathLike | None = None) -> tuple[list[MaskPair], Matching]:
    """Pair the masks of a folder with the ground truth of a data set.

    Args:
        dataset (BaseSegDataset | TaggedDataset): Its infos name the masks, and the tags if it is a
            ``TaggedDataset``.
        pred_dir (str | PathLike): Folder of the predictions.
        gt_dir (str | PathLike, optional): Folder of the ground truth, named and labelled as the
            data set's own masks; None takes those.

    Returns:
        tuple: The pairs of all images that have a prediction, and the matching of ids.

    Raises:
        UserError: If there are no predictions or the data set has no masks.
    """
    infos = {Path(info['img_path']).stem: info
             for info in map(dataset.get_data_info, range(len(dataset)))}
    matching = match_masks(pred_dir, infos)
    # COCO-Stuff's files have a longer suffix; its {id}.png hold other numbers.
    suffix = getattr(getattr(dataset, 'dataset', dataset), 'seg_map_suffix', '.png')
    pairs = []
    for image_id in matching.common:
        info = infos[image_id]
        gt = os.path.join(gt_dir, f'{image_id}{suffix}') if gt_dir else info.get('seg_map_path')
        if gt is None:
            raise UserError('The data set names no masks to compare with (no '
                            '`data_prefix.seg_map_path`): give their folder with `--gt-dir`.')
        pairs.append(MaskPair(image_id, os.path.join(pred_dir, f'{image_id}.png'), gt,
                              info.get('image_labels'), _lookup(info)))
    return pairs, matching


def _lookup(info: dict) -> tuple[int, ...] | None:
    """What mmseg's LoadAnnotations does to the labels of a file, as a table."""
    label_map = info.get('label_map')
    if not info.get('reduce_zero_label') and label_map is None:
        return None
    labels = list(range(256))
    if info.get('reduce_zero_label'):
        labels = [255, *range(254), 255]
    return tuple((label_map or {}).get(label, label) for label in labels)


def score_pairs(pairs: Sequence[MaskPair], num_classes: int, background_index: int | None = 0,
                jobs: int = 1, progress: bool = True) -> MaskScores:
    """Score predicted masks, in several processes if wanted.

    Args:
        pairs (Sequence[MaskPair]): What to compare.
        num_classes (int): Number of classes, background included.
        background_index (int, optional): Label index of the background, None if there is none.
        jobs (int): Processes; 1 stays in this one. Defaults to 1.
        progress (bool): Show a bar. Defaults to True.

    Returns:
        MaskScores: All pairs, accumulated.

    Raises:
        UserError: If a mask cannot be read, has another size than its ground truth, or holds a
            label that is no class; names the image.
    """
    chunks = [pairs[i:i + _CHUNK] for i in range(0, len(pairs), _CHUNK)]
    score = partial(_score_chunk, num_classes=num_classes, background_index=background_index)
    total = MaskScores(num_classes, background_index)
    with tqdm(total=len(pairs), desc='Scoring', unit='mask', disable=not progress) as bar:
        def add(results: Iterable[MaskScores]) -> None:
            for chunk, scores in zip(chunks, results, strict=True):
                total.merge(scores)
                bar.update(len(chunk))

        if jobs == 1:
            add(map(score, chunks))
        else:
            with ProcessPoolExecutor(jobs) as pool:
                add(pool.map(score, chunks))
    return total


def _score_chunk(pairs: Sequence[MaskPair], num_classes: int,
                 background_index: int | None) -> MaskScores:
    scores = MaskScores(num_classes, background_index)
    for pair in pairs:
        try:
            gt = read_mask(pair.gt)
            if pair.lookup is not None:
                gt = np.array(pair.lookup, np.uint8)[gt]
            scores.update(read_mask(pair.pred), gt, pair.tags)
        except FileNotFoundError as error:
            raise UserError(f'{pair.image_id}: no such mask: {error.filename}.') from error
        except ValueError as error:
            raise UserError(f'{pair.image_id} ({pair.pred} against {pair.gt}): {error}') from error
    return scores
