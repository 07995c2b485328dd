from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from ...formats import mean_feature
from ...ops import (
    MARGINALS,
    PLANS,
    POOLINGS,
    VARIANTS,
    Pooled,
    TransportSettings,
    add_background,
    average_similarity,
    class_correlation,
    class_marginal,
    correlation_groups,
    integrate_seeds,
    labels_from_scores,
    pooled_similarity,
    rebalance_uss,
    rebalance_wss,
    recover_seeds,
)

IGNORE = 255
STEPS = ('seeds', 'uss', 'wss')
MERGES = ('vanished', 'all')
CENTERS = (None, 'image', 'dataset')
Size = tuple[int, int]


class PropagationInputs(NamedTuple):
    """What DHR reads of a batch of B images, padded at the bottom and right to one size.

    Attributes:
        images: RGB 0..255, (B, 3, H, W).
        sizes: (height, width) of each image without padding.
        tags: Foreground label ids of each image.
        cam: A in [0, 1], (B, K, h, w), K foreground classes in label order.
        uss: F_us, (B, D, h', w'), covering the padded image.
        wss: Levels of F_ws, each (B, D_l, h_l, w_l), covering the padded image.
        base: M_base (B, H, W), 255 = ignore; None when there is none at all.
        base_shares: Per image the area share of every label in the whole M_base, (num_classes,);
            None = this image has no M_base. Given wherever ``base`` is.
        shares: (B, num_classes), estimated share of each class in the valid part of each image;
            read when the marginal is ``shares``.
    """
    images: Tensor
    sizes: Sequence[Size]
    tags: Sequence[Sequence[int]]
    cam: Tensor
    uss: Tensor
    wss: Sequence[Tensor]
    base: Tensor | None = None
    base_shares: Sequence[np.ndarray | None] | None = None
    shares: Tensor | None = None


class PropagationResult(NamedTuple):
    """Label masks, long, 255 = ignore.

    Attributes:
        final: M_dh on the working grid (B, ceil(H / stride), ceil(W / stride)).
        init: M_init (Step 1), (B, H, W).
        uss: Argmax after Step 2 on the working grid; None unless stages were asked for.
        wss: Argmax after Step 3, before R_C; None unless stages were asked for.
        nearest: The control: each cell takes the class of the nearest USS centroid, without
            transport; None unless stages were asked for.
        nearest_wss: The same with WSS centroids.
    """
    final: Tensor
    init: Tensor
    uss: Tensor | None = None
    wss: Tensor | None = None
    nearest: Tensor | None = None
    nearest_wss: Tensor | None = None


class _Layout(NamedTuple):
    """Which label stands behind which channel: background first, then the image's tags."""
    classes: Tensor  # (B, C) long
    class_mask: Tensor  # (B, C) bool
    host_mask: Tensor  # the same on the CPU: what it decides there waits for no device
    first: int  # channel of the first tag

    def pick(self, rows: Sequence[int]) -> _Layout:
        """The layout of some of the images."""
        return _Layout(self.classes[rows], self.class_mask[rows], self.host_mask[rows], self.first)


@MODELS.register_module()
class DHRPropagation:
    """Dual features-driven hierarchical rebalancing of one batch (DHR, Section 3.2).

    Without M_base the seeds and their background are M_init, so tags alone are enough.

    Args:
        num_classes (int): Classes of the data set, background included.
        background_index (int, optional): Label id of the background; None if there is none.
            Defaults to 0.
        steps (Sequence[str]): Which steps are taken. Without 'seeds', M_init is M_base where
            there is one; without 'uss', Step 3 starts from the WSS similarity itself and no class
            is left out of it. Defaults to ('seeds', 'uss', 'wss').
        transport (bool): False leaves every optimal transport out; with a single step that is the
            control *nearest centroid*. Defaults to True.
        reg (float): λ of the optimal transport (Eq. 2). Defaults to 0.1.
        num_iters (int, optional): Stop the transport after so many of Sinkhorn's updates.
            Defaults to None, converged.
        plan (str): 'min_max' or 'raw'; see :func:`mmseg_dhr.ops.transport_scores`. Defaults to
            'min_max'.
        marginal (str): Class masses of Steps 2 and 3; see
            :func:`mmseg_dhr.ops.class_marginal`. 'shares' reads ``PropagationInputs.shares``;
            'uniform' is the paper. Defaults to 'sqrt_area', which trained better segmentors
            (docs/en/ablation.md).
        share_floor (float): No tagged class receives a smaller share of the image.
            Defaults to 0.
        relax (float, optional): ρ of relaxed class masses; None = hard (the paper).
            Defaults to 0.1.
        pooling (str): Class-level average pooling by 'area' or by 'majority' vote of a cell (the
            paper's code). Defaults to 'area'.
        variant (str): Reading of Eq. 4, 'paper', 'grouped' or 'components'; see
            :func:`mmseg_dhr.ops.rebalance_wss`. Defaults to 'paper'.
        tau (float): Threshold of the USS correlation (Eq. 4); 1 switches WSS off. Defaults to 0.8.
        center (str, optional): Features are centred on the mean of the 'image' or of the 'dataset'
            before the correlation is thresholded. Defaults to None.
        uss_cache (str, optional): For ``center='dataset'``, the folder of cached USS features
            whose mean is taken.
        merge (str): Which seeds enter M_base: 'vanished', those of classes that M_base lost, or
            'all'. Defaults to 'vanished'.
        min_share (float): A class counts as lost when its share of M_base's area is at most this.
            Defaults to 0.
        background_power (float): γ of the background ``(1 - max_c)^γ`` beside the seeds.
            Defaults to 2.
        refine (dict, optional): R_C, a registered refiner. Defaults to
            ``dict(type='DenseCRF')``; None skips it.
        refine_stride (int, optional): Grid of R_C in pixels, 1 is the finest. Defaults to None, the
            grid of ``stride``: R_C at the loss's resolution instead of before it.
        stride (int): Step in pixels of the grid on which M_dh is given. 4 is where the decoder is
            supervised. Defaults to 4.

    Raises:
        ValueError: If a setting is not one of those named.
    """

    def __init__(self,
                 num_classes: int,
                 background_index: int | None = 0,
                 steps: Sequence[str] = STEPS,
                 transport: bool = True,
                 reg: float = 0.1,
                 num_iters: int | None = None,
                 plan: str = 'min_max',
                 marginal: str = 'sqrt_area',
                 share_floor: float = 0.0,
                 relax: float | None = 0.1,
                 pooling: str = 'area',
                 variant: str = 'paper',
                 tau: float = 0.8,
                 center: str | None = None,
                 uss_cache: str | None = None,
                 merge: str = 'vanished',
                 min_share: float = 0.0,
                 background_power: float = 2.0,
                 refine: dict | None = dict(type='DenseCRF'),
                 refine_stride: int | None = None,
                 stride: int = 4) -> None:
        for name, value, known in (('plan', plan, PLANS), ('marginal', marginal, MARGINALS),
                                   ('pooling', pooling, POOLINGS), ('variant', variant, VARIANTS),
                                   ('center', center, CENTERS), ('merge', merge, MERGES)):
            if value not in known:
                raise ValueError(f'Expected {name} to be one of {known}, but got {value!r}.')
        if not set(steps) <= set(STEPS):
            raise ValueError(f'Expected steps among {STEPS}, but got {tuple(steps)}.')
        if min(stride, 1 if refine_stride is None else refine_stride) < 1:
            raise ValueError('Expected stride and refine_stride to be positive integers, '
                             f'but got {stride} and {refine_stride}.')
        if (center == 'dataset') != (uss_cache is not None):
            raise ValueError("`uss_cache` goes with center='dataset' alone.")
        self.num_classes = num_classes
        self.background_index = background_index
        self.foreground = [c for c in range(num_classes) if c != background_index]
        self.steps = tuple(step for step in STEPS if step in steps)
        self.transport = TransportSettings(reg, num_iters, relax, plan, transport)
        self.marginal = marginal
        self.share_floor = share_floor
        self.pooling = pooling
        self.variant = variant
        self.tau = tau
        self.center = center
        self.uss_cache = uss_cache
        self.merge = merge
        self.min_share = min_share
        self.background_power = background_power
        self.refine = None if refine is None else MODELS.build(refine)
        self.refine_stride = refine_stride
        self.stride = stride

    @property
    def needs_shares(self) -> bool:
        """Whether ``PropagationInputs.shares`` is read."""
        return self.marginal == 'shares'

    @torch.no_grad()
    def __call__(self, batch: PropagationInputs, stages: bool = False,
                 init: Tensor | None = None) -> PropagationResult:
        """Run Steps 1 to 3 and both R_C.

        Args:
            batch (PropagationInputs): The images and what is known of them.
            stages (bool): Also return the masks after Steps 2 and 3. Defaults to False.
            init (Tensor, optional): M_init (B, H, W) of :meth:`initial_mask`, made before.

        Returns:
            PropagationResult: M_dh and M_init, and the stages on request.

        Raises:
            ValueError: If the marginal is 'shares' and the batch has none, or it has an M_base
                without ``base_shares``.
        """
        layout = self._layout(batch)
        init = self.initial_mask(batch) if init is None else init
        inside = valid_mask(batch.images, batch.sizes, batch.uss.shape[-2:])
        uss = pooled_similarity(batch.uss, init, layout.classes, layout.class_mask, inside,
                                self.pooling)
        wss = self._wss_similarity(batch, init, layout) if batch.wss else None
        marginal = self._marginal(uss, batch, layout)
        after_uss = rebalance_uss(uss, inside, self.transport, marginal)
        scores = self._after_wss(uss, wss, after_uss, inside, marginal)
        final = self._labels(batch, scores, layout, refine=True)
        if not stages:
            return PropagationResult(final, init)
        masks = [None if maps is None else self._labels(batch, maps, layout, refine=False)
                 for maps in (after_uss, scores, uss.similarity, wss)]
        return PropagationResult(final, init, *masks)

    def summary(self) -> dict[str, Any]:
        """The settings, as JSON can hold them."""
        names = ('steps', 'marginal', 'share_floor', 'pooling', 'variant', 'tau', 'center', 'merge',
                 'min_share', 'background_power', 'refine_stride')
        return dict(**self.transport._asdict(), **{name: getattr(self, name) for name in names},
                    refine=repr(self.refine))

    def seed_summary(self) -> str:
        """What Step 1 depends on: equal for propagations that make the same M_init."""
        return repr(('seeds' in self.steps, self.transport, self.merge, self.min_share,
                     self.background_power, self.refine, self.refine_stride, self.stride))

    def correlation(self, uss: Pooled) -> Tensor:
        """The correlation of the classes that ``tau`` is compared with, (B, C, C)."""
        if self.center == 'dataset':
            assert self.uss_cache is not None  # checked at construction
            return class_correlation(uss, _dataset_mean(self.uss_cache))
        return class_correlation(uss, uss.mean if self.center == 'image' else None)

    def _wss_similarity(self, batch: PropagationInputs, init: Tensor, layout: _Layout) -> Tensor:
        """S_ws, the mean over the feature levels, on the grid of the USS features."""
        levels = [
            pooled_similarity(level, init, layout.classes, layout.class_mask,
                              valid_mask(batch.images, batch.sizes, level.shape[-2:]),
                              self.pooling) for level in batch.wss
        ]
        return average_similarity(levels, batch.uss.shape[-2:])

    def _marginal(self, uss: Pooled, batch: PropagationInputs, layout: _Layout) -> Tensor | None:
        shares = batch.shares
        if shares is not None:
            shares = shares.to(layout.classes.device).gather(1, layout.classes.clamp_min(0))
        return class_marginal(self.marginal, uss.area, uss.class_mask, layout.first == 1, shares,
                              self.share_floor)

    def _after_wss(self, uss: Pooled, wss: Tensor | None, after_uss: Tensor, inside: Tensor,
                   marginal: Tensor | None) -> Tensor:
        """S_dh (Step 3), or what the steps in force make of the maps."""
        if 'wss' not in self.steps or wss is None:
            return after_uss if 'uss' in self.steps else uss.class_mask[:, :, None, None].float()
        if 'uss' not in self.steps:
            return rebalance_uss(uss._replace(similarity=wss), inside, self.transport, marginal)
        groups = correlation_groups(self.correlation(uss), self.tau, self.variant)
        start = after_uss if self.variant == 'paper' else uss.similarity
        return rebalance_wss(start, wss, groups, uss.class_mask, inside, self.variant,
                             self.transport, marginal)

    @contextmanager
    def at_stride(self, stride: int) -> Iterator[None]:
        """Work on another grid for a while."""
        previous = self.stride, self.refine_stride
        self.stride, self.refine_stride = stride, None
        try:
            yield
        finally:
            self.stride, self.refine_stride = previous

    def _layout(self, batch: PropagationInputs) -> _Layout:
        first = 0 if self.background_index is None else 1
        width = max([1, *(first + len(tags) for tags in batch.tags)])
        classes = torch.full((len(batch.tags), width), -1, dtype=torch.long)
        if self.background_index is not None:
            classes[:, 0] = self.background_index
        for row, tags in enumerate(batch.tags):
            classes[row, first:first + len(tags)] = torch.as_tensor(sorted(tags), dtype=torch.long)
        host_mask = classes >= 0
        device = batch.cam.device
        return _Layout(classes.to(device), host_mask.to(device), host_mask, first)

    def initial_mask(self, batch: PropagationInputs) -> Tensor:
        """Step 1: M_init (B, H, W) at the resolution of the images.

        Raises:
            ValueError: If there is an M_base without ``base_shares``.
        """
        if batch.base is not None and batch.base_shares is None:
            raise ValueError('Expected base_shares beside base: without them an image counts as '
                             'one that has no M_base.')
        layout = self._layout(batch)
        size = batch.images.shape[-2:]
        shares = [None if batch.base is None else s
                  for s in batch.base_shares or [None] * len(batch.tags)]
        recover = self._classes_to_recover(batch.tags, shares, layout)
        rows = [i for i, wanted in enumerate(recover.any(1).tolist())
                if wanted or shares[i] is None]
        base = (torch.full((len(batch.tags), *size), IGNORE, device=batch.cam.device)
                if batch.base is None else batch.base.long())
        if not rows:
            return base
        picked = layout.pick(rows)
        seeds = self._seeds(batch, picked, rows)
        alone = torch.as_tensor([shares[i] is None for i in rows], device=seeds.device)
        merged = integrate_seeds(base[rows], seeds, recover[rows].to(seeds.device), picked.classes)
        init = base.clone()
        init[rows] = torch.where(alone[:, None, None], seeds, merged)
        return init

    def _classes_to_recover(self, tags: Sequence[Sequence[int]],
                            shares: Sequence[np.ndarray | None], layout: _Layout) -> Tensor:
        """Bool (B, C) on the CPU: tagged classes whose seeds enter M_base."""
        recover = layout.host_mask.clone()
        recover[:, :layout.first] = False
        if 'seeds' not in self.steps:
            return torch.zeros_like(recover)
        for row, (labels, share) in enumerate(zip(tags, shares, strict=True)):
            if self.merge == 'vanished' and share is not None:
                for channel, label in enumerate(sorted(labels), start=layout.first):
                    recover[row, channel] = bool(share[label] <= self.min_share)
        return recover

    def _seeds(self, batch: PropagationInputs, layout: _Layout, rows: Sequence[int]) -> Tensor:
        """M_seed = R_C(f_OT(A) * A) of the images ``rows``, (R, H, W); background included.

        ``layout`` is theirs.
        """
        part = PropagationInputs(batch.images[rows], [batch.sizes[i] for i in rows],
                                 [batch.tags[i] for i in rows], batch.cam[rows],
                                 batch.uss[:0], [])
        tag_mask = layout.class_mask[:, layout.first:]
        channel = torch.zeros(self.num_classes + 1, dtype=torch.long, device=part.cam.device)
        channel[self.foreground] = torch.arange(len(self.foreground), device=channel.device)
        gather = channel[layout.classes[:, layout.first:]][:, :, None, None]
        cam = part.cam.gather(1, gather.expand(-1, -1, *part.cam.shape[-2:]))
        cam = cam * tag_mask[:, :, None, None]
        inside = valid_mask(part.images, part.sizes, cam.shape[-2:])
        scores = recover_seeds(cam, tag_mask, inside, self.transport)
        if layout.first:
            scores = add_background(scores, power=self.background_power)
        # Where no object is the background is sure; beyond the image, nothing is.
        scores = scores * inside[:, None]
        # Not by way of the working grid: small classes would not survive it.
        seeds = self._labels_at(part, scores, layout, True, self.refine_stride or self.stride)
        return _resize_labels(seeds, batch.images.shape[-2:], 'nearest')

    def _labels(self, batch: PropagationInputs, scores: Tensor, layout: _Layout,
                refine: bool) -> Tensor:
        """Scores -> labels on the working grid, through R_C if asked and there is one."""
        if refine and self.refine is not None and self.refine_stride is not None:
            fine = self._labels_at(batch, scores, layout, True, self.refine_stride)
            height, width = batch.images.shape[-2:]
            grid = math.ceil(height / self.stride), math.ceil(width / self.stride)
            return _resize_labels(fine, grid, 'nearest-exact')  # in the middle of each cell
        return self._labels_at(batch, scores, layout, refine, self.stride)

    def _labels_at(self, batch: PropagationInputs, scores: Tensor, layout: _Layout, refine: bool,
                   stride: int) -> Tensor:
        height, width = batch.images.shape[-2:]
        grid = (math.ceil(height / stride), math.ceil(width / stride))
        scores = F.interpolate(scores, size=grid, mode='bilinear', align_corners=False)
        scores = scores.masked_fill(~layout.class_mask[:, :, None, None], 0.0)
        if refine and self.refine is not None:
            images = F.interpolate(batch.images.float(), size=grid, mode='area')
            sizes = [(math.ceil(h / stride), math.ceil(w / stride)) for h, w in batch.sizes]
            empty = scores.sum(1, keepdim=True) <= 0
            scores = self.refine(images, scores, layout.host_mask, sizes, stride)
            scores = scores.masked_fill(empty, 0.0)
        inside = valid_mask(batch.images, batch.sizes, grid)
        return labels_from_scores(scores, layout.classes, layout.class_mask, inside)


def valid_mask(images: Tensor, sizes: Sequence[Size], grid: Sequence[int]) -> Tensor:
    """Cells of a grid over the padded images whose centre lies in the image itself.

    Args:
        images (Tensor): (B, 3, H, W), for the padded size and the device.
        sizes (Sequence[tuple]): (height, width) of each image.
        grid (Sequence[int]): (h, w).

    Returns:
        Tensor: Bool (B, h, w).
    """
    height, width = images.shape[-2:]
    limits = torch.as_tensor([tuple(s) for s in sizes], dtype=torch.float32, device=images.device)
    rows = (torch.arange(grid[0], device=images.device) + 0.5) * height / grid[0]
    columns = (torch.arange(grid[1], device=images.device) + 0.5) * width / grid[1]
    inside_rows = rows[None] < limits[:, :1]
    inside_columns = columns[None] < limits[:, 1:]
    # An image that is smaller than half a cell still owns the first cell.
    inside_rows[:, 0] = True
    inside_columns[:, 0] = True
    return inside_rows[:, :, None] & inside_columns[:, None, :]


@functools.lru_cache(maxsize=4)
def _dataset_mean(folder: str) -> Tensor:
    return mean_feature(folder)


def _resize_labels(labels: Tensor, size: Sequence[int], mode: str) -> Tensor:
    return F.interpolate(labels[:, None].float(), size=tuple(size), mode=mode)[:, 0].long()

