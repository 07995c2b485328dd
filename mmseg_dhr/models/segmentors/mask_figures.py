"""Figures of the pseudo-labels of a batch, for the training log."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..propagation.dhr import IGNORE

__all__ = ['mask_figures']


def mask_figures(final: Tensor, init: Tensor, base: Tensor | None, inside: Tensor,
                 tagged: Tensor, background_index: int | None) -> dict[str, Tensor]:
    """What M_dh of a batch looks like, without any ground truth; nothing waits for the device.

    A tagged class may have been cropped away, so that its absence alone says nothing. M_init (Step
    1: M_base and the seeds of the classes that it lost) tells which classes the crop shows.

    Args:
        final (Tensor): M_dh, long (B, h, w), 255 = ignore.
        init (Tensor): M_init (B, H, W).
        base (Tensor, optional): M_base (B, H, W); None if there is none.
        inside (Tensor): Bool (B, h, w), False on padding.
        tagged (Tensor): Bool (B, num_classes), True for the foreground tags of each image.
        background_index (int, optional): Label of the background; None if there is none.

    Returns:
        dict: Scalars in [0, 1]; 0 where there is nothing to count.

        - ``dhr/vanished``: of the tagged classes with a pixel in M_init of the crop, the share
          without any in M_dh.
        - ``dhr/background``: of the labelled pixels of M_dh, the share of the background (only with
          a background).
        - ``dhr/ignored``: of the pixels of the images, the share that M_dh leaves unlabelled.
        - ``dhr/changed``: of the pixels that both M_dh and M_base label, the share with another
          label (only with ``base``).
    """
    classes = tagged.shape[1]
    shown = tagged & _present(init, classes)
    labelled = inside & (final != IGNORE)
    figures = {'dhr/vanished': _share(shown & ~_present(final, classes), shown)}
    if background_index is not None:
        figures['dhr/background'] = _share(labelled & (final == background_index), labelled)
    figures['dhr/ignored'] = _share(inside & ~labelled, inside)
    if base is not None:
        size = final.shape[-2:]
        before = F.interpolate(base[:, None].float(), size=size, mode='nearest-exact')[:, 0].long()
        both = labelled & (before != IGNORE)
        figures['dhr/changed'] = _share(both & (final != before), both)
    return figures


def _present(masks: Tensor, classes: int) -> Tensor:
    """Bool (B, classes): the labels with at least one pixel."""
    present = torch.zeros((len(masks), IGNORE + 1), dtype=torch.bool, device=masks.device)
    return present.scatter_(1, masks.flatten(1).long(), True)[:, :classes]


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return part.sum() / whole.sum().clamp_min(1)
