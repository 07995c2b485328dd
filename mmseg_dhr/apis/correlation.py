"""Correlation of the classes' USS centroids over a data set (Eq. 4, Fig. 11)."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..models.propagation import PropagationInputs
from ..models.propagation.dhr import valid_mask
from ..ops import Pooled, class_correlation, pooled_similarity
from .build import propagation_of
from .common import Photo, list_photos, read_truth
from .pseudo_labels import collate

__all__ = ['ClassPair', 'Correlations', 'class_correlations', 'closest_pairs']

IGNORE = 255


class Correlations(NamedTuple):
    """Means over images, for every pair of classes (K, K); NaN where nothing was counted.

    Attributes:
        images: Number of images in which both classes have a centroid.
        raw: Mean cosine of the two centroids of an image.
        centred: The same after the image's mean feature was subtracted.
        linked: Share of the images whose correlation, as the propagation has it, exceeds its τ.
        dataset_raw: Cosine of the centroids of all images together, for every two classes.
        dataset_centred: The same after the mean of all images' features was subtracted.
    """
    images: Tensor
    raw: Tensor
    centred: Tensor
    linked: Tensor
    dataset_raw: Tensor
    dataset_centred: Tensor


class ClassPair(NamedTuple):
    """A pair of classes in :class:`Correlations`."""
    first: int
    second: int
    images: int
    raw: float
    centred: float
    linked: float
    dataset_raw: float
    dataset_centred: float


class _Sums:
    """What is added up over images."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.pairs = torch.zeros(4, num_classes, num_classes, device=device)
        self.centroids = torch.zeros(0)
        self.area = torch.zeros(num_classes, device=device)
        self.mean = torch.zeros(0)
        self.count = 0

    def add(self, uss: Pooled, linked: Tensor) -> None:
        """Count the pairs of a batch; ``linked`` (B, C, C) says which exceed τ."""
        together = (uss.class_mask[:, :, None] & uss.class_mask[:, None]).float()
        for store, value in zip(self.pairs, (
                torch.ones_like(together), class_correlation(uss),
                class_correlation(uss, uss.mean), linked), strict=True):
            store += (value * together).sum(0)
        weighted = (uss.centroids * uss.area[:, :, None]).sum(0)
        self.centroids = weighted if self.count == 0 else self.centroids + weighted
        mean = uss.mean.sum(0)
        self.mean = mean if self.count == 0 else self.mean + mean
        self.area += uss.area.sum(0)
        self.count += len(uss.area)

    def result(self) -> Correlations:
        """Means over images, and the correlation of centroids over all images."""
        images, raw, centred, linked = self.pairs.cpu()
        nothing = images == 0
        means = [(m / images).masked_fill(nothing, torch.nan) for m in (raw, centred, linked)]
        present = self.area > 0
        centroids = self.centroids / self.area.clamp_min(1e-6)[:, None]
        absent = ~(present[:, None] & present).cpu()
        whole = []
        for shift in (torch.zeros_like(self.mean), self.mean / max(1, self.count)):
            unit = F.normalize(centroids - shift, dim=1)
            whole.append((unit @ unit.T).cpu().masked_fill(absent, torch.nan))
        return Correlations(images.long(), *means, *whole)


@torch.no_grad()
def class_correlations(model: Any, dataset: Any, every: int = 1, batch_size: int = 8,
                       truth_dir: str | Path | None = None) -> Correlations:
    """Correlate the USS centroids of the classes that occur together.

    Args:
        model (DualEncoderSegmentor): With a propagation; put in eval mode.
        dataset (TaggedDataset): With an un-augmented pipeline.
        every (int): Take every so many-th image. Defaults to 1.
        batch_size (int): Images at a time. Defaults to 8.
        truth_dir (optional): Pool over these true masks instead of M_init.

    Raises:
        UserError: If the model has no propagation, or a true mask is missing.
    """
    propagation = propagation_of(model)
    model.eval()
    sums = _Sums(propagation.num_classes, next(model.cam_head.parameters()).device)
    for batch, photos in _batches(model, dataset, every, batch_size):
        init = (propagation.initial_mask(batch) if truth_dir is None else
                _true_masks(truth_dir, photos, batch))
        uss = _pool(batch, init, propagation)
        sums.add(uss, (propagation.correlation(uss) > propagation.tau).float())
    return sums.result()


def closest_pairs(found: Correlations, classes: Sequence[int], count: int) -> list[ClassPair]:
    """The pairs of classes with the highest mean raw correlation, highest first.

    Args:
        found (Correlations): Of a data set.
        classes (Sequence[int]): Only pairs of these labels.
        count (int): How many pairs at most.
    """
    pairs = [ClassPair(i, j, int(found.images[i, j]), *(float(m[i, j]) for m in found[1:]))
             for i in classes for j in classes if i < j and found.images[i, j] > 0]
    return sorted(pairs, key=lambda pair: -pair.raw)[:count]


def _batches(model: Any, dataset: Any, every: int,
             batch_size: int) -> Iterator[tuple[PropagationInputs, list[Photo]]]:
    photos = list_photos(dataset)
    indices = list(range(0, len(photos), every))
    for start in tqdm(range(0, len(indices), batch_size), desc='correlation', mininterval=1.0):
        chunk = indices[start:start + batch_size]
        inputs, samples = collate(model, [dataset[i] for i in chunk])
        yield model.propagation_inputs(inputs, samples), [photos[i] for i in chunk]


def _pool(batch: PropagationInputs, init: Tensor, propagation: Any) -> Pooled:
    """Centroids with one channel per label of the data set."""
    device, count = batch.uss.device, propagation.num_classes
    allowed = torch.zeros(len(batch.tags), count, dtype=torch.bool)
    for row, tags in zip(allowed, batch.tags, strict=True):
        row[list(tags)] = True
    if propagation.background_index is not None:
        allowed[:, propagation.background_index] = True
    classes = torch.arange(count, device=device).expand(len(batch.tags), -1)
    inside = valid_mask(batch.images, batch.sizes, batch.uss.shape[-2:])
    return pooled_similarity(batch.uss, init, classes, allowed.to(device), inside,
                             propagation.pooling)


def _true_masks(folder: str | Path, photos: Sequence[Photo], batch: PropagationInputs) -> Tensor:
    masks = torch.full((len(photos), *batch.images.shape[-2:]), IGNORE, dtype=torch.long)
    for mask, photo in zip(masks, photos, strict=True):
        truth = torch.from_numpy(read_truth(folder, photo))
        mask[:truth.shape[0], :truth.shape[1]] = truth
    return masks.to(batch.images.device)
