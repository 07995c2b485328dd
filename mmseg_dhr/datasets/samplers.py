"""Samplers."""
from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sized

from mmengine.dist import get_dist_info
from mmseg.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

__all__ = ['PositionSampler']


@DATA_SAMPLERS.register_module()
class PositionSampler(Sampler):
    """Infinite stream of positions of a seeded :class:`TaggedDataset`.

    Yields ``start + rank``, ``start + rank + world_size``, ... The data set turns a position into
    an image and its augmentation, so that a stream is taken up anywhere by its number alone, with
    no sample read in vain.

    Args:
        dataset (Sized): A data set whose samples are a function of (seed, position).
        start (int): First position, over all ranks. Defaults to 0.
        seed (int, optional): Given by the runner and not used: the data set's own seed decides.

    Raises:
        ValueError: If the data set has no seed.
    """

    def __init__(self, dataset: Sized, start: int = 0, seed: int | None = None) -> None:
        if getattr(dataset, 'seed', None) is None:
            raise ValueError(
                'PositionSampler expects a data set that turns positions into samples, such as '
                f'TaggedDataset with `seed`, but found {type(dataset).__name__} without a seed. '
                'Set `seed=0` (or another number) in the TaggedDataset config.')
        self.dataset = dataset
        self.rank, self.world_size = get_dist_info()
        self.set_start(start)

    def set_start(self, position: int) -> None:
        """Begin the next iteration at ``position`` (counted over all ranks)."""
        if position < 0:
            raise ValueError(f'Expected a position of at least 0, but got {position}.')
        self.start = position

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start + self.rank, self.world_size)

    def __len__(self) -> int:
        """Positions of one rank in one pass over the data set, rounded up."""
        return math.ceil(len(self.dataset) / self.world_size)
