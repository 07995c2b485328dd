from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptConfigType, SampleList
from torch import Tensor

from ...ops import affinity_losses, neighbour_offsets, random_walk, two_stage_walk
from ...utils import UserError
from ..pixels import normalises, rgb_to_inputs
from .heads import Affinity

__all__ = ['AffinityNetwork']


@MODELS.register_module()
class AffinityNetwork(BaseModel):
    """Learns from partial label maps which neighbouring pixels belong together.

    PSA's AffinityNet with a :class:`FeatureAffinityHead`, IRNet's boundary branch with a
    :class:`BoundaryAffinityHead`, on any backbone of mmseg::

        inputs -> backbone -> head -> affinities of neighbours
        gt_sem_seg (255 = unknown) -> pairs of one class, of two, unknown -> loss

    The label maps come through the pipeline like any other: masks of CAMs that two backgrounds
    agree on (``tools/make_affinity_labels.py``), or true ones where there are some.

    Args:
        backbone (dict): Config of the backbone.
        affinity_head (dict): Config of the head.
        data_preprocessor (dict): Config of a ``SegDataPreProcessor`` that normalises.
        train_radius (int): Pairs that are trained on are nearer than this, in cells of the head's
            grid. Defaults to 5.
        background_index (int, optional): Label of the background. Defaults to 0.
        freeze_backbone (bool): Train the head alone, as IRNet does. Defaults to False.
        init_cfg (dict, optional): Initialisation.

    Raises:
        UserError: If the data preprocessor does not normalise.
    """

    def __init__(self, backbone: ConfigType, affinity_head: ConfigType,
                 data_preprocessor: ConfigType, train_radius: int = 5,
                 background_index: int | None = 0, freeze_backbone: bool = False,
                 init_cfg: OptConfigType = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        if not normalises(self.data_preprocessor):
            raise UserError('AffinityNetwork needs a SegDataPreProcessor with `mean` and `std`.')
        self.backbone = MODELS.build(backbone)
        self.affinity_head = MODELS.build(affinity_head)
        self.train_offsets = neighbour_offsets(train_radius)
        self.train_radius = train_radius
        self.background_index = background_index
        self.freeze_backbone = freeze_backbone
        if freeze_backbone:
            self.backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> AffinityNetwork:
        """Switch the mode; a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.freeze_backbone:
            self.backbone.eval()
        return self

    def extract_feat(self, inputs: Tensor) -> Sequence[Tensor]:
        """The backbone's features."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_backbone):
            return self.backbone(inputs)

    def affinity(self, inputs: Tensor, radius: int = 5) -> Affinity:
        """Affinities of neighbours.

        Args:
            inputs (Tensor): Normalised images (B, 3, H, W).
            radius (int): In cells of the head's grid. Defaults to 5.
        """
        return self.affinity_head.affinity(self.affinity_head(self.extract_feat(inputs)), radius)

    @torch.no_grad()
    def walk(self, inputs: Tensor, scores: Tensor, beta: float = 8.0, num_steps: int = 256,
             radius: int = 5, boundary: Tensor | None = None,
             boundary_threshold: float = 0.5) -> Tensor:
        """Random walk of scores along the affinities, on the head's grid.

        Args:
            inputs (Tensor): Normalised images (B, 3, H, W).
            scores (Tensor): (B, C, h', w') on any grid over the images.
            beta, num_steps: See :func:`mmseg_dhr.ops.random_walk`.
            radius (int): In cells of the head's grid. Defaults to 5.
            boundary (Tensor, optional): Probability of a boundary (B, H', W') on any grid: the walk
                has RETAB's two stages then, see :func:`mmseg_dhr.ops.two_stage_walk`.
            boundary_threshold (float): Cells whose mean probability is at least this are on a
                boundary (τ). Defaults to 0.5.

        Returns:
            Tensor: Float32 (B, C, h, w).
        """
        values, sources = self.affinity(inputs, radius)
        start = _resized(scores, values) * sources
        offsets = neighbour_offsets(radius)
        if boundary is None:
            return random_walk(start, values, offsets, beta, num_steps)
        on_boundary = _resized(boundary[:, None], values)[:, 0] >= boundary_threshold
        return two_stage_walk(start, values, offsets, on_boundary, beta, num_steps)

    def forward(self, inputs: Tensor, data_samples: SampleList | None = None,
                mode: str = 'tensor') -> Any:
        """Losses of a batch, or what the head gives.

        Args:
            inputs (Tensor): Normalised, padded images (B, 3, H, W).
            data_samples (list[SegDataSample], optional): With ``gt_sem_seg``, for 'loss'.
            mode (str): 'loss' or 'tensor'. Masks are made by ``tools/make_affinity_masks.py``.

        Raises:
            ValueError: If the mode is another one.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples or [])
        if mode == 'tensor':
            return self.affinity_head(self.extract_feat(inputs))
        raise ValueError(f"Expected mode 'loss' or 'tensor', but got {mode!r}: masks are made by "
                         'tools/make_affinity_masks.py.')

    def loss(self, inputs: Tensor, data_samples: SampleList) -> dict[str, Tensor]:
        """``loss_affinity``, and its three parts for the log.

        Raises:
            UserError: If a sample has no label map.
        """
        labels = self._label_maps(data_samples)
        values = self.affinity(inputs, self.train_radius).values
        # The label in the middle of each cell.
        labels = F.interpolate(labels[:, None].float(), size=values.shape[-2:],
                               mode='nearest-exact')
        losses = affinity_losses(values, labels[:, 0].long().to(values.device), self.train_offsets,
                                 self.background_index)
        return dict(loss_affinity=losses.total, background=losses.background.detach(),
                    foreground=losses.foreground.detach(), negative=losses.negative.detach())

    def _label_maps(self, data_samples: SampleList) -> Tensor:
        """Labels of a batch, (B, H, W)."""
        if not data_samples or not all('gt_sem_seg' in s for s in data_samples):
            raise UserError(f'{type(self).__name__} trains on label maps, but a sample has no '
                            '`gt_sem_seg`: put `LoadPseudoMask` or `LoadAnnotations` into the '
                            'pipeline.')
        return torch.stack([s.gt_sem_seg.data[0] for s in data_samples])

    def rgb_to_inputs(self, images: Tensor) -> Tensor:
        """Normalise RGB 0..255 (B, 3, H, W) as the data preprocessor would."""
        return rgb_to_inputs(images, self.data_preprocessor)


def _resized(maps: Tensor, like: Tensor) -> Tensor:
    """Maps (B, C, h, w) on the grid of others."""
    return F.interpolate(maps.float(), size=like.shape[-2:], mode='bilinear', align_corners=False,
                         antialias=True)
