"""Which masks train the better segmentor? A small head on frozen features answers in minutes."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from ..evaluation import MaskScores, Scores
from .common import Photo, TrueMasks, read_rgb, read_truth

__all__ = ['FrozenFeatures', 'ProbeSettings', 'collect_features', 'predict_labels', 'test_head',
           'train_head', 'untagged_photos']

IGNORE = 255


class ProbeSettings(NamedTuple):
    """How the head is trained.

    Attributes:
        size: Images are scaled to this long side, in pixels, and padded to a square.
        levels: Feature maps of the segmentor's backbone that the head reads; the first gives the
            grid.
        channels: Width of the head.
        iters: Steps of Adam.
        batch_size: Images in a step, half of them mirrored.
        lr: Learning rate at the start; it falls linearly to 0.
    """
    size: int = 256
    levels: tuple[int, ...] = (-3, -2, -1)
    channels: int = 128
    iters: int = 400
    batch_size: int = 8
    lr: float = 2e-3


class FrozenFeatures(NamedTuple):
    """Features of a set of images, plain and mirrored, float16.

    Attributes:
        photos: The images.
        levels: Per level (2, N, D, h, w): the images as they are, then mirrored.
        sizes: (height, width) of each image within the padded square, in pixels.
    """
    photos: list[Photo]
    levels: list[Tensor]
    sizes: list[tuple[int, int]]


@torch.no_grad()
def collect_features(model: Any, photos: Sequence[Photo], settings: ProbeSettings,
                     title: str = 'features') -> FrozenFeatures:
    """Run the frozen encoder of ``model`` (DualEncoderSegmentor) once over the images."""
    model.eval()
    device = next(model.cam_head.parameters()).device
    kept: list[list[Tensor]] = [[] for _ in settings.levels]
    sizes = []
    for i in trange(len(photos), desc=title, mininterval=1.0):
        pixels = torch.from_numpy(read_rgb(photos[i].path)).to(device).permute(2, 0, 1)[None]
        pixels = _fit(pixels.float(), settings.size, 'bilinear')
        sizes.append((pixels.shape[-2], pixels.shape[-1]))
        both = torch.cat([_square(view, settings.size) for view in (pixels, pixels.flip(-1))])
        features = model.extract_feat(model.rgb_to_inputs(both))
        for store, level in zip(kept, settings.levels, strict=True):
            store.append(features[level].half().cpu())
    return FrozenFeatures(list(photos), [torch.stack(store, 1) for store in kept], sizes)


def train_head(train: FrozenFeatures, masks: str | Path | TrueMasks, num_classes: int, seed: int,
               settings: ProbeSettings, title: str = 'head') -> nn.Module:
    """Train the head on a folder of masks.

    Args:
        train (FrozenFeatures): Of the training images.
        masks: Folder of ``{id}.png`` for each of them, or a data set's true masks.
        num_classes (int): Classes, background included.
        seed (int): Of the head's weights and of the order of the images.
        settings (ProbeSettings): Of the training.
        title (str): For the progress bar.

    Returns:
        nn.Module: In eval mode.

    Raises:
        UserError: If a mask is missing.
    """
    grid = train.levels[0].shape[-2:]
    targets = torch.stack([_targets(masks, photo, settings.size, grid)
                           for photo in train.photos])
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = _head(sum(level.shape[2] for level in train.levels), settings.channels, num_classes)
    optimizer = torch.optim.Adam(head.parameters(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, settings.iters)
    for _ in trange(settings.iters, desc=f'{title}, seed {seed}', mininterval=1.0):
        picked = torch.randint(len(train.photos), (settings.batch_size, ), generator=generator)
        mirrored = (torch.rand(settings.batch_size, generator=generator) < 0.5).long()
        loss = F.cross_entropy(head(_gather(train, mirrored, picked)), targets[picked, mirrored],
                               ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval()


def test_head(head: nn.Module, test: FrozenFeatures, masks: str | Path | TrueMasks,
              num_classes: int, background_index: int | None,
              settings: ProbeSettings) -> Scores:
    """Score the head of :func:`train_head` on other images, at their own size.

    Raises:
        UserError: If a true mask is missing.
    """
    scores = MaskScores(num_classes, background_index)
    for i, photo in enumerate(test.photos):
        truth = read_truth(masks, photo)
        scores.update(predict_labels(head, test, i, truth.shape, settings), truth)
    return scores.compute()


@torch.no_grad()
def predict_labels(head: nn.Module, features: FrozenFeatures, index: int, size: Sequence[int],
                   settings: ProbeSettings,
                   allowed: Sequence[int] | None = None) -> np.ndarray:
    """Labels of one image, uint8 (H, W).

    Args:
        head (nn.Module): Of :func:`train_head`.
        features (FrozenFeatures): Features of the images.
        index (int): Which image.
        size (Sequence[int]): (H, W) of the result.
        settings (ProbeSettings): As for the features.
        allowed (Sequence[int], optional): Only these labels are given. Defaults to all.
    """
    logits = head(_gather(features, torch.zeros(1, dtype=torch.long), torch.tensor([index])))
    logits = F.interpolate(logits, size=(settings.size, ) * 2, mode='bilinear')
    height, width = features.sizes[index]
    logits = F.interpolate(logits[..., :height, :width], size=tuple(size), mode='bilinear')[0]
    if allowed is not None:
        kept = torch.zeros(len(logits), dtype=torch.bool)
        kept[list(allowed)] = True
        logits[~kept] = -torch.inf
    return logits.argmax(0).byte().numpy()


def _head(in_channels: int, channels: int, num_classes: int) -> nn.Module:
    """Two depthwise separable convolutions: wide enough to see what stands beside a cell."""
    def block(inner: int, dilation: int) -> list[nn.Module]:
        return [nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation, groups=inner,
                          bias=False),
                nn.Conv2d(inner, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()]

    return nn.Sequential(
        nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels), nn.ReLU(), *block(channels, 1), *block(channels, 4),
        nn.Conv2d(channels, num_classes, 1))


def _gather(features: FrozenFeatures, mirrored: Tensor, picked: Tensor) -> Tensor:
    grid = features.levels[0].shape[-2:]
    maps = [level[mirrored, picked].float() for level in features.levels]
    return torch.cat([m if m.shape[-2:] == grid else
                      F.interpolate(m, size=grid, mode='bilinear') for m in maps], 1)


def _targets(masks: str | Path | TrueMasks, photo: Photo, size: int, grid: Sequence[int]) -> Tensor:
    """(2, h, w) labels at the cells' centres, plain and mirrored; 255 on the padding."""
    mask = torch.from_numpy(read_truth(masks, photo).astype(np.float32))[None, None]
    mask = _fit(mask, size, 'nearest-exact')
    views = torch.cat([_square(view, size, IGNORE) for view in (mask, mask.flip(-1))])
    return F.interpolate(views, size=tuple(grid), mode='nearest-exact')[:, 0].long()


def _fit(maps: Tensor, size: int, mode: str) -> Tensor:
    scale = size / max(maps.shape[-2:])
    target = [max(1, round(side * scale)) for side in maps.shape[-2:]]
    return F.interpolate(maps, size=target, mode=mode, antialias=mode == 'bilinear')


def _square(maps: Tensor, size: int, value: float = 0.0) -> Tensor:
    height, width = maps.shape[-2:]
    return F.pad(maps, (0, size - width, 0, size - height), value=value)


def untagged_photos(dataset: Any) -> list[Photo]:
    """The images of an mmseg test data set, without tags."""
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [Photo(Path(info['img_path']).stem, info['img_path'], ()) for info in infos]
