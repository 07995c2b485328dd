"""Tags of images from what a benchmark brings; the result is what ``type='json'`` reads."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from ...formats import atomic_path
from ...utils import UserError
from ..labels import ClassIndex, mask_labels
from .lists import for_each

__all__ = ['tags_from_masks', 'tags_from_voc_xml', 'write_tags']

Tags = dict[str, tuple[int, ...]]


def write_tags(path: str | Path, tags: Mapping[str, Sequence[int]],
               classes: Sequence[str]) -> None:
    """Write ``{image id: [class names]}``, atomically.

    Args:
        path: JSON file.
        tags (Mapping): Label ids of each image.
        classes (Sequence[str]): Class names.
    """
    named = {image_id: [classes[label].strip() for label in labels]
             for image_id, labels in tags.items()}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(named, indent=0) + '\n', encoding='utf-8')


def tags_from_masks(files: Mapping[str, str | Path], classes: Sequence[str],
                    background_index: int | None, reduce_zero_label: bool = False,
                    min_pixels: int = 1, jobs: int = 1) -> Tags:
    """The classes that masks show.

    Args:
        files (Mapping): Mask of each image id.
        classes (Sequence[str]): Class names in the order of the label ids.
        background_index (int, optional): Label id of the background, None if there is none.
        reduce_zero_label (bool): 0 in the files is ignored, all others move down by one.
        min_pixels (int): That a class must have. Defaults to 1.
        jobs (int): Processes. Defaults to 1.

    Returns:
        dict[str, tuple[int, ...]]: Sorted foreground label ids of each image.

    Raises:
        UserError: If a mask is missing.
        ValueError: If one is damaged or holds a label that is no class.
    """
    missing = [str(file) for file in files.values() if not Path(file).is_file()]
    if missing:
        raise UserError(f'{len(missing)} of {len(files)} masks do not exist, such as '
                        f'{", ".join(missing[:3])}. Tags need the mask of every image.')
    read = partial(mask_labels, num_classes=len(classes), reduce_zero_label=reduce_zero_label,
                   min_pixels=min_pixels)
    found = for_each(read, [Path(file) for file in files.values()], 'Reading masks', jobs)
    return {image_id: tuple(label for label in labels if label != background_index)
            for image_id, labels in zip(files, found, strict=True)}


def tags_from_voc_xml(files: Mapping[str, str | Path], classes: Sequence[str],
                      difficult: bool = True) -> Tags:
    """The classes of the objects in annotations of PASCAL VOC.

    Args:
        files (Mapping): ``Annotations/{id}.xml`` of each image id.
        classes (Sequence[str]): Class names in the order of the label ids, background first.
        difficult (bool): Whether objects that are marked as difficult count. The tag lists that the
            field uses (PSA's ``cls_labels.npy``) have them. Defaults to True.

    Returns:
        dict[str, tuple[int, ...]]: Sorted label ids of each image; empty where no object counts.

    Raises:
        UserError: If a file is missing or no annotation.
        ValueError: If an object is of no class of the data set.
    """
    index = ClassIndex(classes, 0)
    return {image_id: index.tags(_objects(Path(file), difficult), str(file))
            for image_id, file in files.items()}


def _objects(file: Path, difficult: bool) -> list[str]:
    """Names of the objects; the parts of a person (head, hand, foot) are none."""
    try:
        root = ElementTree.parse(file).getroot()
    except FileNotFoundError as error:
        raise UserError(f'{file}: no such annotation. Annotations/ comes with VOC 2012.') from error
    except ElementTree.ParseError as error:
        raise UserError(f'{file}: not a complete XML file ({error}).') from error
    found = []
    for entry in root.findall('object'):
        name = entry.findtext('name')
        if name is None:
            raise UserError(f'{file}: expected a <name> in every <object>, but one has none.')
        if difficult or entry.findtext('difficult', '0').strip() != '1':
            found.append(name)
    return found
