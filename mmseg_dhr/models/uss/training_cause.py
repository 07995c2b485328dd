from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...ops.correspondence import (
    concept_contrast,
    correspondence,
    feature_graph,
    modularity,
    nearest_concepts,
)
from .heads import CAUSEMLPHead, CAUSETRHead
from .training import USSProbes

__all__ = ['CAUSETraining']


@MODELS.register_module()
class CAUSETraining(USSProbes):
    """Trains codebook and head of CAUSE (Kim et al., arXiv 2310.07379) without labels.

    Part 1, ``codebook_iters`` iterations: a codebook of concepts that maximises the modularity of
    each image's feature graph. Part 2: codes of one concept are drawn together and those of unlike
    concepts apart, against the codes that a teacher (moving average of the head) gives to this
    batch and gave to earlier ones. Which part is due is in the checkpoint.

    Our readings, where the paper leaves a choice: the contrast is on the code itself, not on a
    further projection; the concept bank is the latest ``bank_size`` codes of the teacher, of any
    concept.

    Args:
        encoder (dict): See :class:`USSProbes`.
        dim (int): Channels of the code. Defaults to 90.
        transformer (bool): The head of CAUSE-TR; False trains that of CAUSE-MLP. Defaults to True.
        num_heads (int): Attention heads of CAUSE-TR. Defaults to 12.
        grid (int): Side of the maps in cells, that of the data set: CAUSE-TR learns one query for
            each cell, and images are brought to this grid at test time. Defaults to 16.
        num_codes (int): Concepts of the codebook. Defaults to 2048.
        codebook_iters (int): Iterations of part 1. Defaults to 1000.
        momentum (float): Of the teacher. Defaults to 0.99.
        anchors (int): Codes of each image that are trained at a time. Defaults to 64.
        bank_size (int): Places in the concept bank. Defaults to 4096.
        positive, negative (float): See :func:`~mmseg_dhr.ops.correspondence.concept_contrast`.
            Default to .3 and .1.
        temperature (float): Of the contrast. Defaults to 0.07.
        **kwargs: Of :class:`USSProbes`.
    """
    step: Tensor
    bank: Tensor
    bank_concepts: Tensor

    def __init__(self, encoder: dict, dim: int = 90, transformer: bool = True, num_heads: int = 12,
                 grid: int = 16, num_codes: int = 2048, codebook_iters: int = 1000,
                 momentum: float = .99, anchors: int = 64, bank_size: int = 4096,
                 positive: float = .3, negative: float = .1, temperature: float = .07,
                 **kwargs: Any) -> None:
        super().__init__(encoder, channels=dim, **kwargs)
        channels = self.encoder.out_channels
        self.head: nn.Module = CAUSETRHead(channels, dim, num_heads, grid * grid) \
            if transformer else CAUSEMLPHead(channels, dim)
        self.head_ema = copy.deepcopy(self.head).requires_grad_(False)
        # Of unit length, as only directions count: the step size is then one against the length.
        self.codebook = nn.Parameter(F.normalize(torch.randn(num_codes, channels), dim=1))
        self.grid = grid
        self.codebook_iters = codebook_iters
        self.momentum = momentum
        self.anchors = anchors
        self.contrast = dict(positive=positive, negative=negative, temperature=temperature)
        self.register_buffer('step', torch.zeros((), dtype=torch.long))
        self.register_buffer('bank', torch.zeros(bank_size, dim))
        self.register_buffer('bank_concepts', torch.full((bank_size, ), -1))

    def train(self, mode: bool = True) -> CAUSETraining:
        """Switch all but encoder and teacher, which always are in eval mode."""
        super().train(mode)
        self.head_ema.eval()
        return self

    def code(self, features: Tensor) -> Tensor:
        """The teacher's code, on the grid of the training."""
        size = (self.grid, self.grid)
        if features.shape[-2:] != size:
            features = F.interpolate(features, size=size, mode='nearest-exact')
        return self.head_ema(features)

    def loss(self, features: Tensor, positives: Tensor | None,
             labels: Tensor | None) -> dict[str, Tensor]:
        """Of the codebook in part 1; of head and probes in part 2."""
        self.step += 1
        if self.step <= self.codebook_iters:
            return dict(loss_modularity=self._codebook_loss(features.flatten(2)))
        return super().loss(features, positives, labels)

    def head_losses(self, features: Tensor, positives: Tensor | None) -> dict[str, Tensor]:
        """``loss_contrast``, and the shares of positive and negative pairs."""
        # The step of the last iteration, which the optimizer has taken since.
        self._update_teacher()
        with torch.no_grad():
            concepts = nearest_concepts(features.flatten(2), self.codebook)  # (B, n)
            taught = self.head_ema(features).flatten(2)  # (B, d, n)
            self._fill_bank(taught, concepts)
            unit = F.normalize(self.codebook, dim=1)
        codes = self.head(features).flatten(2)
        chosen = torch.rand(concepts.shape, device=codes.device).argsort(1)[:, :self.anchors]
        anchors = codes.transpose(1, 2).gather(1, chosen[..., None].expand(-1, -1, codes.shape[1]))
        found = concept_contrast(
            anchors.flatten(0, 1), concepts.gather(1, chosen).flatten(), self.bank,
            self.bank_concepts, unit @ unit.t(), **self.contrast)
        return dict(loss_contrast=found.loss, positives=found.positives, negatives=found.negatives)

    def _codebook_loss(self, features: Tensor) -> Tensor:
        """Minus the modularity of features (B, D, n)."""
        codes = self.codebook.t()[None].expand(len(features), -1, -1)
        assignment = correspondence(features, codes).clamp_min(0)  # (B, n, K)
        return -modularity(feature_graph(features), assignment).mean()

    @torch.no_grad()
    def _update_teacher(self) -> None:
        pairs = zip(self.head_ema.parameters(), self.head.parameters(), strict=True)
        for teacher, student in pairs:
            teacher.lerp_(student, 1 - self.momentum)

    def _fill_bank(self, codes: Tensor, concepts: Tensor) -> None:
        """Put codes (B, d, n) of this batch in front; the oldest drop out."""
        size = len(self.bank)
        latest = codes.transpose(1, 2).flatten(0, 1)
        self.bank = torch.cat([latest, self.bank])[:size]
        self.bank_concepts = torch.cat([concepts.flatten(), self.bank_concepts])[:size]
