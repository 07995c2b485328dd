"""Walking over a tagged data set: reading, sharding over ranks, resuming, progress."""
from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from mmengine.dist import barrier, get_dist_info
from mmengine.logging import print_log
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile
from tqdm import tqdm

from ..formats import Manifest, OutputFolder, open_output, read_mask
from ..utils import UserError
from ..utils.checks import check_depth
from ..utils.throughput import Throughput

__all__ = [
    'Photo', 'Shard', 'TrueMasks', 'image_size', 'in_background', 'list_photos',
    'of_one_size', 'open_shard', 'read_ahead', 'read_rgb', 'read_truth'
]

_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 exchange width and height
Item = TypeVar('Item')
Result = TypeVar('Result')


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
        title: What is made of the images.
        output: The folder, common to all ranks.
        photos: The images whose file this rank still has to make.
        missing: Files that all ranks together have to make.
        clock: Started when the folder was opened.
    """
    title: str
    output: OutputFolder
    photos: Sequence[Photo]
    missing: int
    clock: Throughput

    def batches(self, batch_size: int = 1) -> Iterator[list[Photo]]:
        """Iterate over the photos in batches of one size, behind a progress bar."""
        with self._bar() as bar:
            for photos in of_one_size(self.photos, batch_size):
                yield photos
                bar.update(len(photos))

    def images(self, batch_size: int = 1) -> Iterator[tuple[list[Photo], np.ndarray]]:
        """The same with the pixels, uint8 RGB (B, H, W, 3); a thread reads one batch ahead."""
        batches = of_one_size(self.photos, batch_size)
        with self._bar() as bar:
            for photos, pixels in zip(batches, read_ahead(_read_batch, batches), strict=True):
                yield photos, pixels
                bar.update(len(photos))

    def finish(self) -> None:
        """Wait for the other ranks, mark the folder as complete and say how fast that was."""
        barrier()
        if get_dist_info()[0] == 0:
            self.output.finish()
            print_log(self.clock.line(self.title, self.missing, self._skipped), logger='current')
        barrier()

    @property
    def _skipped(self) -> int:
        return len(self.output.ids) - self.missing

    def _bar(self) -> tqdm:
        """A progress bar, on the first rank."""
        there = f' ({self._skipped} of {len(self.output.ids)} are there)' if self._skipped else ''
        return tqdm(total=len(self.photos), desc=f'{self.title}{there}',
                    disable=get_dist_info()[0] != 0, mininterval=1.0)


def list_photos(dataset: Any) -> list[Photo]:
    """The images of a :class:`TaggedDataset`, in order."""
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [Photo(info['img_id'], info['img_path'], tuple(info['image_labels'])) for info in infos]


def open_shard(title: str, folder: str | Path, photos: Sequence[Photo],
               settings: Mapping[str, Any], suffix: str, overwrite: bool = False,
               tagged: bool = True) -> Shard:
    """Open an output folder; see :func:`mmseg_dhr.formats.open_output`.

    Args:
        title (str): What is made of the images, for the progress bar and the last line.
        folder, settings, suffix, overwrite: See there.
        photos (Sequence[Photo]): The images.
        tagged (bool): Whether a file depends on the tags of its image: it is made anew when they
            have changed. Defaults to True.

    Returns:
        Shard: This rank's part.

    Raises:
        UserError: If the folder holds files of other settings and ``overwrite`` is off.
    """
    rank, world = get_dist_info()
    clock = Throughput()
    ids = [photo.img_id for photo in photos]
    tags = {photo.img_id: ' '.join(map(str, photo.tags)) for photo in photos if tagged}
    if rank == 0:
        try:
            output = open_output(folder, settings, ids, suffix, overwrite, tags)
        except ValueError as error:
            raise UserError(str(error)) from error
    barrier()
    if rank != 0:
        manifest = Manifest.load(folder)
        assert manifest is not None  # the first rank has written it
        output = OutputFolder(Path(folder), manifest, tuple(ids), suffix)
    remaining = set(output.remaining)
    barrier()  # nobody writes before everybody has looked
    return Shard(title, output, [p for p in photos[rank::world] if p.img_id in remaining],
                 len(remaining), clock)


def of_one_size(photos: Sequence[Photo], batch_size: int) -> list[list[Photo]]:
    """Put images of the same size together, ``batch_size`` at most.

    Raises:
        UserError: If an image is missing or damaged.
    """
    if batch_size <= 1:
        return [[photo] for photo in photos]
    groups: dict[tuple[int, int], list[Photo]] = defaultdict(list)
    for photo in photos:
        groups[image_size(photo.path)].append(photo)
    return [group[start:start + batch_size] for group in groups.values()
            for start in range(0, len(group), batch_size)]


def read_ahead(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """``map(function, items)``; while one result is used, a thread makes the next."""
    with ThreadPoolExecutor(1) as thread:
        coming: deque[Future[Result]] = deque()
        for item in items:
            coming.append(thread.submit(function, item))
            if len(coming) > 1:
                yield coming.popleft().result()
        if coming:
            yield coming.popleft().result()


@contextmanager
def in_background(threads: int = 1) -> Iterator[Callable[..., None]]:
    """A way to run functions in threads beside this one.

    What a function raises is raised here: by a later call, or when the block ends; calls that wait
    are then dropped. At most eight a thread wait; one more waits for the first of them.

    Yields:
        Callable: Takes a function and its arguments.
    """
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future] = deque()

        def submit(function: Callable[..., Any], *args: Any) -> None:
            while pending and (len(pending) >= 8 * threads or pending[0].done()):
                pending.popleft().result()
            pending.append(pool.submit(function, *args))

        try:
            yield submit
            for future in pending:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def read_rgb(path: str | Path) -> np.ndarray:
    """Read an image as uint8 RGB (H, W, 3), turned as its EXIF orientation says.

    Raises:
        UserError: If the file is missing or damaged, or has more than 8 bits a colour.
    """
    with _opened(path) as image:
        # Pillow turns a TIFF as it reads it, and in old versions would turn it again here.
        turned = image if isinstance(image, TiffImageFile) else ImageOps.exif_transpose(image)
        return np.array(turned.convert('RGB'))


def _read_batch(photos: Sequence[Photo]) -> np.ndarray:
    return np.stack([read_rgb(photo.path) for photo in photos])


def image_size(path: str | Path) -> tuple[int, int]:
    """The size of :func:`read_rgb`'s image, from the file's header."""
    with _opened(path) as image:
        width, height = image.size
        if isinstance(image, TiffImageFile):  # `size` is turned already in newer versions of Pillow
            width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
        turned = 5 <= image.getexif().get(_ORIENTATION, 1) <= 8
    return (width, height) if turned else (height, width)


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            check_depth(image, path)
            yield image
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such image.') from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f'{path}: expected a whole image file, but could not read it '
                        f'({error}). Replace it or take it off the list.') from error


class TrueMasks(NamedTuple):
    """Where a data set keeps its true masks, and how their labels are to be read.

    Attributes:
        folder: Folder of the files ``{id}{suffix}``.
        suffix: '_labelTrainIds.png' for COCO-Stuff.
        reduce_zero_label: 0 is ignored and all others move down by one, as in ADE20K.
    """
    folder: Path
    suffix: str = '.png'
    reduce_zero_label: bool = False

    def path(self, photo: Photo) -> Path:
        """The file of an image."""
        return self.folder / f'{photo.img_id}{self.suffix}'


def read_truth(masks: str | Path | TrueMasks, photo: Photo) -> np.ndarray:
    """The true mask of an image, uint8 (H, W) of label ids and 255.

    Args:
        masks: A folder of ``{id}.png`` that hold label ids, or a data set's own masks.
        photo (Photo): The image.

    Raises:
        UserError: If it is missing.
    """
    if not isinstance(masks, TrueMasks):
        masks = TrueMasks(Path(masks))
    path = masks.path(photo)
    if not path.is_file():
        raise UserError(f'{path}: no true mask for image {photo.img_id}. Scoring needs masks for '
                        'every image; set `score_masks` in the config, below the data root.')
    return read_mask(path, masks.reduce_zero_label)
