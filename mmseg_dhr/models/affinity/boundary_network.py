from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor

from ...ops import BOUNDARY_SOURCES, boundary_loss, boundary_target
from ..propagation.dhr import valid_mask
from ..samples import sizes_of
from .network import AffinityNetwork

__all__ = ['BoundaryNetwork']


@MODELS.register_module()
class BoundaryNetwork(AffinityNetwork):
    """Learns class-agnostic boundaries from true masks (RETAB, Section 3.2).

    It is built as the affinity network is, with a :class:`BoundaryAffinityHead`, but learns the
    boundary itself, at the size of the image, with the balanced loss of three sets of pixels. What
    it learned on base classes holds for novel ones.

    Args:
        source (str): What a boundary is in the masks, 'ignore' or 'edges', see
            :func:`mmseg_dhr.ops.boundary_target`. Defaults to 'ignore'.
        edge_radius (int): For 'edges', in pixels of the augmented image. Defaults to 2.
        **kwargs: Arguments of :class:`AffinityNetwork`.

    Raises:
        ValueError: If the source is another.
    """

    def __init__(self, *args: Any, source: str = 'ignore', edge_radius: int = 2,
                 **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if source not in BOUNDARY_SOURCES:
            raise ValueError(f'Expected source to be one of {BOUNDARY_SOURCES}, but got '
                             f'{source!r}.')
        self.source = source
        self.edge_radius = edge_radius

    @torch.no_grad()
    def boundary(self, inputs: Tensor) -> Tensor:
        """Probability that a pixel lies on a boundary.

        Args:
            inputs (Tensor): Normalised images (B, 3, H, W).

        Returns:
            Tensor: Float32 (B, H, W) in (0, 1).
        """
        return self._logits(inputs).sigmoid()

    def _logits(self, inputs: Tensor) -> Tensor:
        logits = self.affinity_head.logits(self.extract_feat(inputs))
        return F.interpolate(logits, size=inputs.shape[-2:], mode='bilinear',
                             align_corners=False)[:, 0]

    def loss(self, inputs: Tensor, data_samples: SampleList) -> dict[str, Tensor]:
        """``loss_boundary`` on the true masks of the samples, and how much of it is found.

        Padding counts for nothing.

        Raises:
            UserError: If a sample has no label map.
        """
        labels = self._label_maps(data_samples).to(inputs.device)
        boundary, counted = boundary_target(labels, self.source, self.edge_radius)
        counted = counted & valid_mask(inputs, sizes_of(data_samples), labels.shape[-2:])
        logits = self._logits(inputs)
        background = -1 if self.background_index is None else self.background_index
        loss = boundary_loss(logits, boundary, counted, labels != background)
        found = (logits.detach() > 0) & boundary & counted
        recall = 100 * found.sum() / (boundary & counted).sum().clamp_min(1)
        return dict(loss_boundary=loss, recall_boundary=recall)
