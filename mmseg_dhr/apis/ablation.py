"""Many settings of DHR on the same images: one pass of the network, one row per setting."""
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.registry import MODELS
from torch import Tensor
from tqdm import tqdm

from ..evaluation import MaskScores, Scores
from ..formats import OutputFolder, open_output, state_fingerprint, write_mask
from ..models.propagation import DHRPropagation, PropagationInputs
from .common import Photo, list_photos, read_truth
from .pseudo_labels import collate, crop_mask, read_beside

__all__ = ['BASE', 'CONTROLS', 'Row', 'ablate', 'figures_of', 'folder_name']

BASE = 'M_base'
CONTROLS: dict[str, dict] = {
    'control: nearest USS centroid, no OT': dict(steps=('seeds', 'uss'), transport=False),
    'control: nearest WSS centroid, no OT': dict(steps=('seeds', 'wss'), transport=False),
}
"""What any claim that the optimal transport helps is measured against."""


class Row(NamedTuple):
    """A line of an ablation: a propagation, and the scores of what it makes.

    Attributes:
        propagation: With the settings of this row.
        shares: Where the marginal 'shares' comes from: 'predicted' by the segmentor, or 'true'.
        before: Scores before the last R_C.
        after: Scores of M_dh.
    """
    propagation: DHRPropagation
    shares: str
    before: MaskScores
    after: MaskScores


@torch.no_grad()
def ablate(model: Any, dataset: Any, settings: Mapping[str, Mapping[str, Any]],
           truth_dir: str | Path, propagation: Mapping[str, Any], every: int = 1,
           batch_size: int = 8, masks_dir: str | Path | None = None,
           title: str = 'ablation') -> dict[str, tuple[Scores, Scores]]:
    """Score the pseudo-labels of several settings against the truth.

    Args:
        model (DualEncoderSegmentor): Gives CAMs and features; put in eval mode.
        dataset (TaggedDataset): With an un-augmented pipeline.
        settings (Mapping): Name of a row -> the fields of ``DHRPropagation`` that differ, and
            optionally ``shares``: 'predicted' (default) or 'true' (the oracle).
        truth_dir: Folder of the true masks ``{id}.png``.
        propagation (Mapping): Config that the rows change.
        every (int): Take every so many-th image. Defaults to 1.
        batch_size (int): Images at a time. Defaults to 8.
        masks_dir (optional): Write M_dh of each row to ``masks_dir/{folder_name(row)}/{id}.png``.
        title (str): Name of the progress bar.

    Returns:
        dict: By row, scores before and after the last R_C. :data:`BASE` comes first where there
        is an M_base, which the last R_C does not touch.

    Raises:
        UserError: If a true mask is missing.
        ValueError: If ``masks_dir`` holds masks of other settings or of unknown origin.
    """
    head = model.cam_head

    def empty() -> MaskScores:
        return MaskScores(head.num_classes, head.background_index)

    rows = {name: _row(propagation, fields, empty) for name, fields in settings.items()}
    base = empty()
    photos = list_photos(dataset)
    indices = list(range(0, len(photos), every))
    masks: dict[str, OutputFolder] = {}
    if masks_dir is not None:
        masks = _open_masks(Path(masks_dir), rows, model, dataset, [photos[i] for i in indices])
    predicted = any(r.propagation.needs_shares and r.shares == 'predicted' for r in rows.values())
    seen = False
    for batch, index in tqdm(
            _batches(model, dataset, indices, batch_size, predicted), desc=title,
            total=-(-len(indices) // batch_size), mininterval=1.0):
        chosen = [photos[i] for i in index]
        truths = [read_truth(truth_dir, photo) for photo in chosen]
        if batch.base is not None:
            seen = True
            _update(base, batch.base, batch, truths, chosen)
        _run_rows(rows, batch, truths, chosen, masks, dataset.metainfo['palette'])
    for folder in masks.values():
        folder.finish()
    scores = {name: (row.before.compute(), row.after.compute()) for name, row in rows.items()}
    return {BASE: (base.compute(), base.compute()), **scores} if seen else scores


def _open_masks(folder: Path, rows: Mapping[str, Row], model: Any, dataset: Any,
                photos: Sequence[Photo]) -> dict[str, OutputFolder]:
    """A folder for the masks of each row; masks that are there are made again."""
    made_with = dict(kind='ablation', weights=state_fingerprint(model),
                     **read_beside(model, dataset))
    return {name: open_output(
        folder / folder_name(name),
        dict(made_with, shares=row.shares, propagation=row.propagation.summary()),
        [photo.img_id for photo in photos], '.png') for name, row in rows.items()}


def _row(propagation: Mapping[str, Any], fields: Mapping[str, Any], empty: Any) -> Row:
    changes = dict(fields)
    shares = changes.pop('shares', 'predicted')
    return Row(MODELS.build({**propagation, **changes}), shares, empty(), empty())


def _batches(model: Any, dataset: Any, indices: Sequence[int], batch_size: int,
             shares: bool) -> Iterator[tuple[PropagationInputs, list[int]]]:
    model.eval()
    for start in range(0, len(indices), batch_size):
        chunk = list(indices[start:start + batch_size])
        inputs, samples = collate(model, [dataset[i] for i in chunk])
        yield model.propagation_inputs(inputs, samples, shares=shares), chunk


def _run_rows(rows: Mapping[str, Row], batch: PropagationInputs, truths: Sequence[np.ndarray],
              photos: Sequence[Photo], folders: Mapping[str, OutputFolder], palette: Any) -> None:
    true_shares = _true_shares(truths, rows)
    started: dict[str, Tensor] = {}  # rows with the same Step 1 share its mask
    for name, row in rows.items():
        inputs = batch if row.shares == 'predicted' else batch._replace(shares=true_shares)
        key = row.propagation.seed_summary()
        if key not in started:
            started[key] = row.propagation.initial_mask(inputs)
        result = row.propagation(inputs, stages=True, init=started[key])
        assert result.wss is not None
        _update(row.before, result.wss, batch, truths, photos)
        masks = _update(row.after, result.final, batch, truths, photos)
        if name in folders:
            for photo, mask in zip(photos, masks, strict=True):
                write_mask(folders[name].path(photo.img_id), mask, palette)


def _true_shares(truths: Sequence[np.ndarray], rows: Mapping[str, Row]) -> Tensor:
    classes = max((row.propagation.num_classes for row in rows.values()), default=0)
    counts = [np.bincount(truth[truth != 255], minlength=classes) for truth in truths]
    return torch.as_tensor(np.stack([c / max(1, c.sum()) for c in counts]), dtype=torch.float32)


def _update(scores: MaskScores, masks: Tensor, batch: PropagationInputs,
            truths: Sequence[np.ndarray], photos: Sequence[Photo]) -> list[np.ndarray]:
    whole = []
    for mask, size, truth, photo in zip(masks, batch.sizes, truths, photos, strict=True):
        whole.append(crop_mask(mask, batch.images.shape[-2:], size))
        scores.update(whole[-1], truth, photo.tags)
    return whole


def folder_name(row: str) -> str:
    """The folder of a row's masks: letters, digits and underscores."""
    return re.sub(r'[^0-9A-Za-z.]+', '_', row).strip('_')


def figures_of(scores: Mapping[str, tuple[Scores, Scores]]) -> dict[str, Any]:
    """An ablation as JSON can hold it: by row, both scores, on all and on multi-class images."""
    return {
        name: {when: dict(all=s.all.as_dict(), multi=s.multi.as_dict())
               for when, s in zip(('before_refinement', 'final'), pair, strict=True)}
        for name, pair in scores.items()
    }
