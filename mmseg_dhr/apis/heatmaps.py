"""Which pixels look like this one? Cosine maps of USS and WSS features (Fig. 3)."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.propagation import PropagationInputs
from ..utils import UserError
from .pseudo_labels import collate

__all__ = ['PointMaps', 'point_maps', 'point_similarity']

Point = tuple[int, int]


class PointMaps(NamedTuple):
    """What one point of an image is similar to.

    Attributes:
        title: Name of the point.
        point: (x, y) in pixels.
        maps: Name of the features -> cosine with the point's feature, float32 (H, W) in [-1, 1].
    """
    title: str
    point: Point
    maps: dict[str, np.ndarray]


def point_similarity(features: Tensor, point: Point, size: Sequence[int]) -> Tensor:
    """Cosine of the feature at a point with all others.

    Args:
        features (Tensor): (D, h, w), covering the image.
        point (tuple): (x, y) in pixels, from the top left corner.
        size (Sequence[int]): (H, W) of the image in pixels.

    Returns:
        Tensor: Float32 (h, w) in [-1, 1]; 0 where a feature is 0.

    Raises:
        ValueError: If the point lies outside the image.
    """
    (x, y), (height, width) = point, size
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f'Expected a point x,y in an image of {width} x {height} pixels, '
                         f'but got {x},{y}.')
    unit = F.normalize(features.float(), dim=0)
    row, column = y * unit.shape[1] // height, x * unit.shape[2] // width
    return torch.einsum('dhw,d->hw', unit, unit[:, row, column])


@torch.no_grad()
def point_maps(model: Any, dataset: Any, image_id: str,
               points: Sequence[Point] | None = None) -> tuple[np.ndarray, list[PointMaps]]:
    """Cosine maps of an image for some points.

    Args:
        model (DualEncoderSegmentor): Gives the features; put in eval mode.
        dataset (TaggedDataset): With an un-augmented pipeline.
        image_id (str): Which image.
        points (Sequence, optional): (x, y) in pixels. Defaults to None, the peak of the CAM of each
            tag.

    Returns:
        tuple: The image, uint8 RGB (H, W, 3), and the maps of each point.

    Raises:
        UserError: If there is no such image, a point lies outside it, or there are no points.
    """
    if image_id not in dataset.image_ids:
        raise UserError(f'No image {image_id!r} in the data set; ids are such as '
                        f'{", ".join(dataset.image_ids[:3])}.')
    model.eval()
    batch = model.propagation_inputs(
        *collate(model, [dataset[list(dataset.image_ids).index(image_id)]]))
    size = batch.images.shape[-2:]
    classes = dataset.metainfo['classes']
    named = _peaks(model, batch, classes) if points is None else [(f'{x},{y}', (x, y))
                                                                  for x, y in points]
    if not named:
        raise UserError(f'Image {image_id} has no tags, so give points.')
    features = {'USS': batch.uss[0]}
    features.update({f'WSS level {index} (1/{round(size[0] / level.shape[-2])})': level[0]
                     for index, level in zip(model.wss_indices, batch.wss, strict=True)})
    try:
        found = [PointMaps(title, point, {
            name: _on_pixels(point_similarity(maps, point, size), size)
            for name, maps in features.items()}) for title, point in named]
    except ValueError as error:
        raise UserError(f'Image {image_id}: {error}') from error
    return batch.images[0].permute(1, 2, 0).round().clamp(0, 255).byte().cpu().numpy(), found


def _peaks(model: Any, batch: PropagationInputs,
           classes: Sequence[str]) -> list[tuple[str, Point]]:
    """Name and CAM peak of each tag."""
    height, width = batch.cam.shape[-2:]
    scale_y, scale_x = (side / cells for side, cells in zip(batch.images.shape[-2:],
                                                            (height, width), strict=True))
    foreground = list(model.cam_head.foreground)
    found = []
    for label in batch.tags[0]:
        row, column = divmod(int(batch.cam[0, foreground.index(label)].argmax()), width)
        point = int((column + 0.5) * scale_x), int((row + 0.5) * scale_y)
        found.append((classes[label], point))
    return found


def _on_pixels(cosine: Tensor, size: Sequence[int]) -> np.ndarray:
    full = F.interpolate(cosine[None, None], size=tuple(size), mode='bilinear',
                         align_corners=False)
    return full[0, 0].cpu().numpy()
