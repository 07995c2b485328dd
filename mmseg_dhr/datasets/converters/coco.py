"""COCO's instances as masks of label ids."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...formats import open_output, write_mask
from ...utils import UserError
from ..coco_objects import COCOObjectDataset
from .lists import for_each

__all__ = ['Instances', 'LabelledImage', 'paint_instances', 'read_instances', 'write_object_masks']

_LABEL_OF = {category: label
             for label, category in enumerate(COCOObjectDataset.CATEGORY_IDS, start=1)}


class LabelledImage(NamedTuple):
    """An image and its objects.

    Attributes:
        size: (H, W).
        objects: (label id, segmentation of COCO's JSON), in the order of the file.
    """
    size: tuple[int, int]
    objects: list[tuple[int, Any]]

    @property
    def tags(self) -> tuple[int, ...]:
        """Sorted label ids of all objects, crowds and hidden ones included."""
        return tuple(sorted({label for label, _ in self.objects}))


class Instances(NamedTuple):
    """Contents of ``instances_*.json``.

    Attributes:
        images: By image id (file name without suffix), in the order of COCO's numbers.
        fingerprint: SHA-256 of the file.
    """
    images: dict[str, LabelledImage]
    fingerprint: str

    @property
    def with_objects(self) -> list[str]:
        """Ids of the images that show an object."""
        return [image_id for image_id, image in self.images.items() if image.objects]


def read_instances(path: str | Path) -> Instances:
    """Read a file of COCO's instances.

    The 80 category ids out of 1 to 90 become the labels 1 to 80.

    Raises:
        UserError: If the file is missing, is no file of instances, or has categories that are not
            COCO's.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'{path}: no such file. It comes with COCO (annotations_trainval2014.zip).')
    text = path.read_bytes()
    try:
        content = json.loads(text)
        _check_categories(path, content['categories'])
        stems = {entry['id']: Path(entry['file_name']).stem for entry in content['images']}
        images = {stems[entry['id']]: LabelledImage((entry['height'], entry['width']), [])
                  for entry in sorted(content['images'], key=lambda entry: entry['id'])}
        for entry in content['annotations']:
            images[stems[entry['image_id']]].objects.append(
                (_LABEL_OF[entry['category_id']], entry['segmentation']))
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f'{path}: expected instances as COCO has them (images, annotations, '
                        f'categories), but could not read them ({type(error).__name__}: {error}).'
                        ) from error
    return Instances(images, hashlib.sha256(text).hexdigest())


def _check_categories(path: Path, categories: Sequence[Mapping[str, Any]]) -> None:
    """Class order is worth a check: 80 other names would train without any error."""
    names = dict(zip(COCOObjectDataset.CATEGORY_IDS, COCOObjectDataset.METAINFO['classes'][1:],
                     strict=True))
    wrong = [entry for entry in categories if names.get(entry['id']) != entry['name']]
    if wrong:
        raise UserError(f"{path}: expected COCO's 80 categories, but found "
                        f'{wrong[0]["name"]!r} as number {wrong[0]["id"]}, which COCO calls '
                        f'{names.get(wrong[0]["id"])!r}.')


def paint_instances(image: LabelledImage) -> np.ndarray:
    """One mask of an image's objects: smaller ones over larger ones, crowds as their class.

    Returns:
        np.ndarray: uint8 (H, W), 0 = background.

    Raises:
        UserError: If pycocotools is not installed.
    """
    coder = _pycocotools()
    mask = np.zeros(image.size, np.uint8)
    codes = [(label, _run_lengths(coder, segmentation, image.size))
             for label, segmentation in image.objects]
    for label, code in sorted(codes, key=lambda pair: -int(coder.area(pair[1]))):
        mask[coder.decode(code).astype(bool)] = label
    return mask


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise UserError('Masks of COCO need pycocotools, which is not installed: `pip install '
                        'pycocotools`, or make lists and tags alone with `--no-masks`.') from error
    return mask


def _run_lengths(coder: Any, segmentation: Any, size: tuple[int, int]) -> Any:
    """Polygons, or run lengths of either kind, as compressed run lengths."""
    if isinstance(segmentation, list):
        return coder.merge(coder.frPyObjects(segmentation, *size))
    if isinstance(segmentation['counts'], list):
        return coder.frPyObjects(segmentation, *size)
    return segmentation


class _Job(NamedTuple):
    path: str
    image: LabelledImage


def _write_one(job: _Job) -> None:
    write_mask(job.path, paint_instances(job.image), COCOObjectDataset.METAINFO['palette'])


def write_object_masks(instances: Instances, folder: str | Path, jobs: int = 1,
                       overwrite: bool = False) -> int:
    """Write a palette PNG for every image, also for those without objects.

    A run that was killed goes on where it stopped.

    Args:
        instances (Instances): Images and objects.
        folder: Output folder.
        jobs (int): Processes. Defaults to 1.
        overwrite (bool): Replace masks of other instances. Defaults to False.

    Returns:
        int: How many were not there before.

    Raises:
        UserError: If pycocotools is not installed.
        ValueError: If the folder holds other files.
    """
    _pycocotools()
    settings = dict(kind='coco objects', instances=instances.fingerprint)
    output = open_output(folder, settings, list(instances.images), '.png', overwrite)
    wanted = [_Job(str(output.path(image_id)), instances.images[image_id])
              for image_id in output.remaining]
    for _ in for_each(_write_one, wanted, f'Drawing masks of {Path(folder).name}', jobs):
        pass
    output.finish()
    return len(wanted)
