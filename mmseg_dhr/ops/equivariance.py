"""What SEAM adds to a CAM (Wang et al., CVPR 2020): pixel correlation and equivariance losses."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .cam import add_background, normalize_cam

__all__ = ['cam_scores', 'cross_equivariance_loss', 'equivariance_loss', 'pixel_correlation']


def cam_scores(maps: Tensor, tags: Tensor, inside: Tensor | None = None) -> Tensor:
    """Normalised CAMs behind a background channel ``1 - max``.

    Args:
        maps (Tensor): Class maps (B, K, h, w).
        tags (Tensor): (B, K), 1 for a class that the image shows.
        inside (Tensor, optional): Bool (B, h, w), False on padding, which is given no class.

    Returns:
        Tensor: Float32 (B, K + 1, h, w) in [0, 1], background first. Has a gradient.
    """
    if inside is not None:
        maps = maps * inside[:, None].to(maps)
    return add_background(normalize_cam(maps, tags), power=1.0)


def pixel_correlation(maps: Tensor, features: Tensor, inside: Tensor | None = None) -> Tensor:
    """Each cell becomes the mean of the cells that look like it (PCM, Eq. 7).

    ``y_i = sum_j w_ij m_j / sum_j w_ij``, with ``w_ij = ReLU(cos(x_i, x_j))``.

    Args:
        maps (Tensor): m, (B, K, h, w).
        features (Tensor): x, embedded features (B, D, h, w).
        inside (Tensor, optional): Bool (B, h, w), False on padding, which nothing is taken from.

    Returns:
        Tensor: Float32 (B, K, h, w).

    Raises:
        ValueError: If the two grids differ.
    """
    if maps.shape[-2:] != features.shape[-2:]:
        raise ValueError(f'Expected maps and features on one grid, but got '
                         f'{tuple(maps.shape[-2:])} and {tuple(features.shape[-2:])}.')
    with torch.autocast(maps.device.type, enabled=False):
        x = F.normalize(features.float().flatten(2), dim=1)
        weight = torch.bmm(x.transpose(1, 2), x).relu()  # (B, N, N), symmetric
        if inside is not None:
            weight = weight * inside.flatten(1)[:, :, None]  # rows: where values come from
        total = weight.sum(1, keepdim=True).clamp_min(1e-5)
        return torch.bmm(maps.float().flatten(2), weight / total).view(maps.shape)


def equivariance_loss(scores: Tensor, moved: Tensor, inside: Tensor | None = None) -> Tensor:
    """``mean |A(scores) - moved|`` (L_ER, Eq. 5).

    Args:
        scores (Tensor): Scores of the image, already moved as the other image was, (B, C, h, w).
        moved (Tensor): Scores of the moved image, (B, C, h, w).
        inside (Tensor, optional): Bool (B, h, w), False on padding, which does not count.

    Returns:
        Tensor: Scalar.
    """
    return _inside((scores - moved).abs(), inside).mean()


def cross_equivariance_loss(scores: Tensor, refined: Tensor, moved: Tensor, moved_refined: Tensor,
                            inside: Tensor | None = None, hard: float = 0.2) -> Tensor:
    """Refined scores of either image against raw ones of the other (L_ECR, Eq. 9).

    ``|A(refined) - moved| + |A(scores) - moved_refined|``, each the mean over the largest errors.

    Args:
        scores, refined (Tensor): Of the image, already moved as the other was, (B, C, h, w).
        moved, moved_refined (Tensor): Of the moved image, (B, C, h, w).
        inside (Tensor, optional): Bool (B, h, w), False on padding, which does not count.
        hard (float): Share of the errors that counts, in (0, 1]. Defaults to 0.2.

    Returns:
        Tensor: Scalar.

    Raises:
        ValueError: If ``hard`` is outside (0, 1].
    """
    if not 0 < hard <= 1:
        raise ValueError(f'Expected `hard` in (0, 1], but got {hard}.')
    errors = [_inside((a - b).abs(), inside) for a, b in ((refined, moved),
                                                          (scores, moved_refined))]
    return torch.stack([e.topk(max(1, int(hard * len(e))), sorted=False).values.mean()
                        for e in errors]).sum()


def _inside(errors: Tensor, inside: Tensor | None) -> Tensor:
    """The errors that count, in one row."""
    return errors.flatten() if inside is None else errors.transpose(0, 1)[:, inside].flatten()
