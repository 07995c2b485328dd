"""Label masks as 8-bit palette PNG."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from .atomic import PathLike, atomic_path

__all__ = ['IGNORE_COLOUR', 'read_mask', 'write_mask']

IGNORE_COLOUR = (224, 224, 192)  # the cream of VOC's own masks


def write_mask(path: PathLike, mask: np.ndarray, palette: Sequence[Sequence[int]]) -> None:
    """Write label indices as a palette PNG, atomically.

    Args:
        path: File to write.
        mask (np.ndarray): (H, W) of integers in [0, 255]; 255 = ignore.
        palette: One (r, g, b) in [0, 255] per class, as in a data set's ``metainfo['palette']``.

    Raises:
        ValueError: If the mask is not a map of integers in [0, 255] or the palette is not one of
            colours.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or 0 in mask.shape or mask.dtype.kind not in 'iu':
        raise ValueError(f'{path}: expected a mask of integers of shape (H, W), '
                         f'but got {mask.dtype} of shape {mask.shape}.')
    if mask.min() < 0 or mask.max() > 255:
        raise ValueError(f'{path}: expected label indices in [0, 255], '
                         f'but got {mask.min()} to {mask.max()}.')
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(_palette_bytes(palette))
    with atomic_path(path) as temporary:
        image.save(temporary, format='PNG')


def read_mask(path: PathLike, reduce_zero_label: bool = False) -> np.ndarray:
    """Read label indices from an 8-bit palette ('P') or grey ('L') PNG.

    Args:
        path: File to read.
        reduce_zero_label (bool): 0 becomes 255 (ignore), and all others but 255 move down by one,
            as MMSegmentation reads ADE20K. Defaults to False.

    Returns:
        np.ndarray: uint8 (H, W).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no complete image, or holds colours instead of label indices.
    """
    try:
        with Image.open(path) as image:
            image.load()
            mode, mask = image.mode, np.array(image)
    except FileNotFoundError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f'{path}: not a complete image file ({error}).') from error
    if mode not in ('P', 'L'):
        raise ValueError(
            f"{path}: expected a mask of label indices (8-bit PNG of mode 'P' or 'L'), but found "
            f'mode {mode!r}. A mask of colours must be converted to label indices first.')
    # uint8: 0 becomes 255
    return np.where(mask == 255, mask, mask - 1) if reduce_zero_label else mask


def _palette_bytes(palette: Sequence[Sequence[int]]) -> bytes:
    """256 colours: the classes', black, and the ignore colour at 255."""
    colours = np.zeros((256, 3), np.uint8)
    given = np.asarray(palette)
    if given.ndim != 2 or given.shape[1] != 3 or len(given) > 256 \
            or given.min() < 0 or given.max() > 255:
        raise ValueError('Expected `palette` to be at most 256 colours (r, g, b) in [0, 255], '
                         f'but got an array of shape {given.shape}.')
    colours[255] = IGNORE_COLOUR
    colours[:len(given)] = given
    return colours.tobytes()
