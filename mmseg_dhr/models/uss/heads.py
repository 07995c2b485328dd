"""Heads that turn the features of a frozen transformer into unsupervised codes.

Plain modules whose parameters are named as in the official files, so that a state dict of those
loads as it is.
"""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ['CAUSEMLPHead', 'CAUSETRHead', 'STEGOHead']


class STEGOHead(nn.Module):
    """Code of STEGO (Hamilton et al., ICLR 2022, arXiv 2203.08414): linear plus non-linear part.

    Args:
        in_channels (int): Channels F of the features.
        dim (int): Channels d of the code. Defaults to 70.
    """

    def __init__(self, in_channels: int, dim: int = 70) -> None:
        super().__init__()
        self.dim = dim
        self.cluster1 = nn.Sequential(nn.Conv2d(in_channels, dim, 1))
        self.cluster2 = _nonlinear(in_channels, dim)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, h, w) -> code (B, d, h, w)."""
        return self.cluster1(features) + self.cluster2(features)


class CAUSEMLPHead(nn.Module):
    """Segment head of CAUSE-MLP (Kim et al., arXiv 2310.07379): the form of STEGO's.

    Args:
        in_channels (int): Channels F of the features.
        dim (int): Channels d of the code. Defaults to 90.
    """

    def __init__(self, in_channels: int, dim: int = 90) -> None:
        super().__init__()
        self.dim = dim
        self.f1 = nn.Conv2d(in_channels, dim, 1)
        self.f2 = _nonlinear(in_channels, dim)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, h, w) -> code (B, d, h, w)."""
        return self.f1(features) + self.f2(features)


class CAUSETRHead(CAUSEMLPHead):
    """Segment head of CAUSE-TR (Kim et al., arXiv 2310.07379): one transformer decoder layer.

    .. code-block:: none

        learned queries, resized to the grid -> decoder layer, memory = features -> f1 + f2

    Sizes and names of parameters are those of the official files. What those do not say is the
    plain reading: the layer is ``torch.nn.TransformerDecoderLayer``, norm after each residual,
    ReLU; the queries are its target, and no position is added to queries or memory.

    Args:
        in_channels (int): Channels F of the features.
        dim (int): Channels d of the code. Defaults to 90.
        num_heads (int): Attention heads; the official ones have 12 for ViT-S too. Defaults to 12.
        num_queries (int): Queries N, the tokens of a training image. Defaults to 1600, that is 320
            pixels in patches of 8.
        hidden_channels (int): Width of the layer's MLP. Defaults to 2048.
        dropout (float): In the layer, while training. Defaults to 0.1.

    Raises:
        ValueError: If ``in_channels`` cannot be shared out to the heads.
    """

    def __init__(self,
                 in_channels: int,
                 dim: int = 90,
                 num_heads: int = 12,
                 num_queries: int = 1600,
                 hidden_channels: int = 2048,
                 dropout: float = 0.1) -> None:
        super().__init__(in_channels, dim)
        if in_channels % num_heads:
            raise ValueError(f'Expected `in_channels` to be a multiple of num_heads = {num_heads}, '
                             f'but got {in_channels}.')
        self.query_pos = nn.Parameter(nn.init.trunc_normal_(
            nn.Linear(in_channels, num_queries).weight.data, std=.02))
        self.tr = nn.TransformerDecoderLayer(in_channels, num_heads, hidden_channels, dropout,
                                             batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, h, w) -> code (B, d, h, w)."""
        batch, _, height, width = features.shape
        memory = features.flatten(2).transpose(1, 2)  # (B, hw, F)
        queries = self.queries(height * width).to(features.dtype).expand(batch, -1, -1)
        tokens = self.tr(queries, memory)  # (B, hw, F)
        return super().forward(tokens.transpose(1, 2).unflatten(2, (height, width)))

    def queries(self, count: int) -> Tensor:
        """Learned queries (count, F), resized along the flattened index, as official."""
        if count == len(self.query_pos):
            return self.query_pos
        return F.interpolate(self.query_pos.t()[None], size=count, mode='linear',
                             align_corners=False)[0].t()


def _nonlinear(in_channels: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, in_channels, 1), nn.ReLU(),
                         nn.Conv2d(in_channels, dim, 1))
