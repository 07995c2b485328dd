"""What each step of DHR does to the masks of a data set: figures and pictures."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from ..evaluation import MaskScores
from ..visualization import cam_heatmap, colorize_mask, overlay
from .cams import multi_scale_cam
from .common import Photo, list_photos, read_rgb, read_truth
from .pseudo_labels import STAGES, pseudo_label_stages

__all__ = ['STAGE_NAMES', 'StageReport', 'pick_examples', 'predict_mask', 'stage_report']

STAGE_NAMES = dict(
    base='M_base',
    init='Step 1: seeds by OT, M_init',
    nearest='control: nearest USS centroid, no OT',
    uss='Step 2: USS rebalancing',
    wss='Step 3: WSS rebalancing',
    final='R_C: M_dh')


class StageReport(NamedTuple):
    """Figures over all images, and the masks of some.

    Attributes:
        scores: By stage; see :data:`STAGE_NAMES`.
        masks: By image id, the masks by stage, uint8 (H, W).
    """
    scores: dict[str, MaskScores]
    masks: dict[str, dict[str, np.ndarray]]


def stage_report(model: Any, dataset: Any, truth_dir: str | Path, keep: Sequence[str] = (),
                 batch_size: int = 4, title: str = 'DHR step by step') -> StageReport:
    """Score the masks after each step of DHR against the truth.

    Args:
        model (DualEncoderSegmentor): With a propagation.
        dataset (TaggedDataset): See :func:`mmseg_dhr.apis.pseudo_label_stages`.
        truth_dir: Folder of the true masks ``{id}.png``.
        keep (Sequence[str]): Ids of the images whose masks are returned.
        batch_size (int): Images at a time. Defaults to 4.
        title (str): Name of the progress bar.

    Returns:
        StageReport: Scores and masks.

    Raises:
        UserError: If a true mask is missing.
    """
    photos = list_photos(dataset)
    head = model.cam_head
    scores: dict[str, MaskScores] = {}
    masks: dict[str, dict[str, np.ndarray]] = {}
    stages = pseudo_label_stages(model, dataset, list(range(len(photos))), batch_size)
    for index, found in tqdm(stages, total=len(photos), desc=title, mininterval=1.0):
        photo = photos[index]
        truth = read_truth(truth_dir, photo)
        for name in STAGES:
            if name in found:
                total = scores.setdefault(
                    name, MaskScores(head.num_classes, head.background_index))
                total.update(found[name], truth, photo.tags)
        if photo.img_id in keep:
            masks[photo.img_id] = found
    return StageReport(scores, masks)


def pick_examples(dataset: Any, count: int) -> list[Photo]:
    """Images for a report, spread evenly over those with at least two tags (or all)."""
    photos = list_photos(dataset)
    several = [photo for photo in photos if len(photo.tags) > 1] or photos
    step = max(1, len(several) // max(1, count))
    return several[::step][:count]


def example_pictures(model: Any, photo: Photo, truth_dir: str | Path,
                     palette: Sequence[Sequence[int]],
                     masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pictures of one image by caption: photo, truth, CAM, every mask given, prediction."""
    image = read_rgb(photo.path)
    cam = multi_scale_cam(model, image, photo.tags).numpy()
    pictures = {'image': image, 'truth': colorize_mask(read_truth(truth_dir, photo), palette)}
    if len(cam):
        pictures['CAM (maximum over tags)'] = cam_heatmap(cam.max(0), image)
    for caption, mask in masks.items():
        pictures[caption] = overlay(image, colorize_mask(mask, palette), 0.7)
    pictures['prediction'] = overlay(image, colorize_mask(predict_mask(model, image), palette), 0.7)
    return pictures


@torch.no_grad()
def predict_mask(model: Any, image: np.ndarray) -> np.ndarray:
    """Single-scale prediction of the wrapped segmentor, uint8 (H, W)."""
    device = next(model.cam_head.parameters()).device
    pixels = torch.from_numpy(image).to(device).permute(2, 0, 1)[None]
    size = tuple(image.shape[:2])
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0, 0, 0, 0])
    logits = model.encode_decode(model.rgb_to_inputs(pixels), [meta])
    logits = F.interpolate(logits, size=size, mode='bilinear', align_corners=False)
    return logits[0].argmax(0).byte().cpu().numpy()
