"""Walking over a tagged data set: reading, sharding over ranks, resuming, progress."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import barrier, get_dist_info
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from ..formats import OutputFolder, open_output, read_mask
from ..utils import UserError

__all__ = ['Photo', 'Shard', 'list_photos', 'open_shard', 'read_rgb', 'read_truth']


class Photo(NamedTuple):
    """One tagged image.

    Attributes:
        img_id: Stem of the file name.
        path: Image file.
        tags: Foreground label ids.
    """
    img_id: str
    path: str
    tags: tuple[int, ...]


class Shard(NamedTuple):
    """This rank's part of an output folder.

    Attributes:
        output: The folder, common to all ranks.
        photos: The images whose file this rank still has to make.
    """
    output: OutputFolder
    photos: Sequence[Photo]

    def progress(self, title: str) -> Iterator[Photo]:
        """Iterate over the photos behind a progress bar (on the first rank)."""
        done = len(self.output.ids) - len(self.output.remaining)
        note = f'{title} ({done} of {len(self.output.ids)} are there)' if done else title
        yield from tqdm(self.photos, desc=note, disable=get_dist_info()[0] != 0, mininterval=1.0)

    def finish(self) -> None:
        """Wait for the other ranks and mark the folder as complete."""
        barrier()
        if get_dist_info()[0] == 0:
            self.output.finish()
        barrier()


def list_photos(dataset: Any) -> list[Photo]:
    """The images of a :class:`TaggedDataset`, in order."""
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [Photo(info['img_id'], info['img_path'], tuple(info['image_labels'])) for info in infos]


def open_shard(folder: str | Path, photos: Sequence[Photo], settings: Mapping[str, Any],
               suffix: str, overwrite: bool = False) -> Shard:
    """Open an output folder; see :func:`mmseg_dhr.formats.open_output`.

    Raises:
        UserError: If the folder holds files of other settings and ``overwrite`` is off.
    """
    rank, world = get_dist_info()
    ids = [photo.img_id for photo in photos]
    if rank == 0:
        try:
            output = open_output(folder, settings, ids, suffix, overwrite)
        except ValueError as error:
            raise UserError(str(error)) from error
    barrier()
    if rank != 0:
        output = open_output(folder, settings, ids, suffix)
    remaining = set(output.remaining)
    barrier()  # nobody writes before everybody has looked
    return Shard(output, [p for p in photos[rank::world] if p.img_id in remaining])


def read_rgb(path: str | Path) -> np.ndarray:
    """Read an image as uint8 RGB (H, W, 3), turned as its EXIF orientation says.

    Raises:
        UserError: If the file is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert('RGB'))
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such image.') from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f'{path}: expected a whole image file, but could not read it '
                        f'({error}). Replace it or take it off the list.') from error


def read_truth(folder: str | Path, photo: Photo) -> np.ndarray:
    """The true mask of an image, uint8 (H, W).

    Raises:
        UserError: If it is missing.
    """
    path = Path(folder) / f'{photo.img_id}.png'
    if not path.is_file():
        raise UserError(f'{path}: no true mask for image {photo.img_id}. Scoring needs masks for '
                        'every image; set `score_masks` in the config, below the data root.')
    return read_mask(path)
