"""Losses that train unsupervised codes on frozen features: STEGO's and CAUSE's."""
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    'ConceptContrast', 'concept_contrast', 'correspondence', 'correspondence_loss', 'feature_graph',
    'modularity', 'nearest_concepts', 'nearest_neighbours', 'random_points', 'sample_points'
]


def random_points(batch: int, side: int, device: torch.device | None = None) -> Tensor:
    """Uniform random places, (B, side², 2) as x, y in [-1, 1]; from torch's global generator."""
    return torch.rand(batch, side * side, 2, device=device) * 2 - 1


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at places.

    Args:
        maps (Tensor): (B, D, h, w).
        points (Tensor): (B, n, 2) as x, y in [-1, 1], the outer edges of the map.

    Returns:
        Tensor: (B, D, n).
    """
    found = F.grid_sample(maps, points[:, :, None].to(maps.dtype), mode='bilinear',
                          padding_mode='border', align_corners=False)  # (B, D, n, 1)
    return found[..., 0]


def correspondence(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of every feature with every other.

    Args:
        first (Tensor): (B, D, n).
        second (Tensor): (B, D, m).

    Returns:
        Tensor: (B, n, m) in [-1, 1].
    """
    return F.normalize(first, dim=1).transpose(1, 2) @ F.normalize(second, dim=1)


def correspondence_loss(features: Tensor, codes: Tensor, shift: float, centre: bool = True,
                        cap: float | None = None, keep_mean: bool = False) -> Tensor:
    """STEGO's ``-mean(clamp(S, 0) · (F - b))`` (Hamilton et al., arXiv 2203.08414, section 3).

    Codes move together where features correspond by more than ``shift`` and apart elsewhere.

    Args:
        features (Tensor): Feature correspondence F, (B, n, m); no gradient flows into it.
        codes (Tensor): Code correspondence S, (B, n, m).
        shift (float): b.
        centre (bool): Take from F, for each of the n places, its mean over the m others ("spatial
            centring" there), which lets small objects count. Defaults to True.
        cap (float, optional): No reward for an S above it; keeps codes from collapsing.
            Defaults to None, no cap.
        keep_mean (bool): Add the mean of all of F back after centring, as the official code does.
            Defaults to False, as the paper's text.

    Returns:
        Tensor: Scalar.

    Raises:
        ValueError: If the shapes differ.
    """
    if features.shape != codes.shape:
        raise ValueError('Expected correspondences of one shape, '
                         f'but got {tuple(features.shape)} and {tuple(codes.shape)}.')
    target = features.detach()
    if centre:
        overall = target.mean() if keep_mean else 0.0
        target = target - target.mean(dim=-1, keepdim=True) + overall
    return -(codes.clamp(0, cap) * (target - shift)).mean()


@torch.no_grad()
def nearest_neighbours(features: Tensor, count: int, block: int = 1024) -> Tensor:
    """For each of N features, the ``count`` others of largest cosine, the nearest first.

    Args:
        features (Tensor): (N, D).
        count (int): Neighbours of each, 1 to N - 1.
        block (int): Rows of the N x N table that are in memory at a time. Defaults to 1024.

    Returns:
        Tensor: Long (N, count).

    Raises:
        ValueError: If there are not so many others.
    """
    total = len(features)
    if not 1 <= count < total:
        raise ValueError(f'Expected 1 to {total - 1} neighbours among {total} features, '
                         f'but got {count}.')
    unit = F.normalize(features.float(), dim=1)
    found = []
    for start in range(0, total, block):
        cosine = unit[start:start + block] @ unit.t()  # (block, N)
        own = torch.arange(len(cosine), device=cosine.device)
        cosine[own, start + own] = -torch.inf
        found.append(cosine.topk(count, dim=1).indices)
    return torch.cat(found)


def feature_graph(features: Tensor) -> Tensor:
    """Weights of the graph of an image's places: ``max(0, cosine)``, no place with itself.

    Args:
        features (Tensor): (B, D, n).

    Returns:
        Tensor: (B, n, n), symmetric, in [0, 1].
    """
    weights = correspondence(features, features).clamp_min(0)
    return weights * (1 - torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device))


def modularity(graph: Tensor, assignment: Tensor, temperature: float = 0.1) -> Tensor:
    """Newman's modularity with soft communities, as CAUSE maximises it (arXiv 2310.07379, part 1).

    ``H = 1 / 2e · sum_ij tanh(C C^T / temperature)_ij (A_ij - d_i d_j / 2e)``, with A the graph, d
    its degrees, 2e their sum and C the places' assignment to the codebook,
    ``C = max(0, cosine(place, code))``. The tanh says "in one community" and makes the many small
    products of soft assignments one yes. This is our reading of the paper; it leaves open whether
    the graph has loops, and :func:`feature_graph` has none.

    Args:
        graph (Tensor): A, (B, n, n), non-negative and symmetric.
        assignment (Tensor): C, (B, n, K), non-negative.
        temperature (float): Positive. Defaults to 0.1.

    Returns:
        Tensor: (B,), at most 1; 0 for a graph without edges.
    """
    degrees = graph.sum(-1)  # (B, n)
    total = degrees.sum(-1).clamp_min(torch.finfo(graph.dtype).tiny)[:, None, None]
    expected = degrees[:, :, None] * (degrees[:, None] / total)
    together = torch.tanh(assignment @ assignment.transpose(1, 2) / temperature)
    return (together * (graph - expected) / total).sum((1, 2))


@torch.no_grad()
def nearest_concepts(features: Tensor, codebook: Tensor) -> Tensor:
    """The code of largest cosine for each feature.

    Args:
        features (Tensor): (B, D, n).
        codebook (Tensor): (K, D).

    Returns:
        Tensor: Long (B, n) in [0, K).
    """
    unit = F.normalize(codebook, dim=1)
    return torch.einsum('kd,bdn->bkn', unit, features).argmax(1)


class ConceptContrast(NamedTuple):
    """What :func:`concept_contrast` finds.

    Attributes:
        loss: Scalar; 0, with a gradient of 0, if no anchor has a positive.
        positives: Share of the anchors' pairs that are positive.
        negatives: The share that are negative.
    """
    loss: Tensor
    positives: Tensor
    negatives: Tensor


def concept_contrast(anchors: Tensor, anchor_concepts: Tensor, bank: Tensor, bank_concepts: Tensor,
                     affinity: Tensor, positive: float = 0.3, negative: float = 0.1,
                     temperature: float = 0.07) -> ConceptContrast:
    """Contrast codes with a concept bank, as CAUSE does (arXiv 2310.07379, part 2).

    A pair is positive where the codebook's concepts of the two have a cosine above ``positive``,
    negative below ``negative``, and counts for nothing in between::

        -log(exp(s+ / t) / (exp(s+ / t) + sum over negatives of exp(s- / t)))

    s is the cosine of the two codes. The loss is averaged over an anchor's positives, then over
    anchors. The averages are our reading of the paper.

    Args:
        anchors (Tensor): Codes that are trained, (A, d).
        anchor_concepts (Tensor): Their concepts, long (A,).
        bank (Tensor): Codes of the teacher, (M, d); no gradient flows into them.
        bank_concepts (Tensor): Their concepts, long (M,); -1 marks an empty place.
        affinity (Tensor): Cosines of the codebook with itself, (K, K).
        positive, negative (float): Thresholds on ``affinity``. Default to 0.3 and 0.1.
        temperature (float): t. Defaults to 0.07.

    Returns:
        ConceptContrast: Loss and shares.

    Raises:
        ValueError: If ``positive`` lies below ``negative``.
    """
    if positive < negative:
        raise ValueError('Expected the threshold of positive pairs not to lie below that of '
                         f'negative ones, but got {positive} < {negative}.')
    logits = F.normalize(anchors, dim=1) @ F.normalize(bank.detach(), dim=1).t() / temperature
    pairs = affinity[anchor_concepts][:, bank_concepts.clamp_min(0)]  # (A, M)
    filled = (bank_concepts >= 0)[None]
    like, unlike = filled & (pairs > positive), filled & (pairs < negative)
    against = logits.masked_fill(~unlike, -torch.inf).logsumexp(1, keepdim=True)  # -inf if none
    each = torch.where(like, F.softplus(against - logits), 0)
    counts = like.sum(1)
    with_positives = (counts > 0).sum().clamp_min(1)
    loss = (each.sum(1) / counts.clamp_min(1)).sum() / with_positives
    pairs_of_all = len(anchors) * filled.sum().clamp_min(1)
    return ConceptContrast(loss, like.sum() / pairs_of_all, unlike.sum() / pairs_of_all)
