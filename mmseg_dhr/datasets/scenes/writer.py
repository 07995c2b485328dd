"""Write a data set of scenes in the layout of PASCAL VOC."""
from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ...formats import write_mask
from ...utils import UserError
from .classes import CLASSES, PALETTE
from .drawing import MIN_SIZE, Scene, draw_scene

__all__ = ['PARAMETERS_FILE', 'SceneParameters', 'write_scenes']

PARAMETERS_FILE = 'scenes.json'
_VERSION = 1  # of the drawing; a change of any pixel raises it
_SPLITS = ('train', 'val')


@dataclass(frozen=True)
class SceneParameters:
    """What determines every byte of a drawn data set.

    Args:
        num_train (int): Images in ``train.txt``. Defaults to 480.
        num_val (int): Images in ``val.txt``. Defaults to 120.
        size (int): Side of the square images in pixels. Defaults to 112.
        seed (int): Non-negative seed. Each image has its own generator, so that a larger split
            begins with the images of a smaller one. Defaults to 0.

    Raises:
        UserError: If a count is negative, the train split empty, ``size`` below 64 or ``seed``
            negative.
    """
    num_train: int = 480
    num_val: int = 120
    size: int = 112
    seed: int = 0

    def __post_init__(self) -> None:
        least = dict(num_train=1, num_val=0, size=MIN_SIZE, seed=0)
        for name, value in asdict(self).items():
            if value < least[name]:
                raise UserError(f'Expected `{name}` to be at least {least[name]}, '
                                 f'but got {value}.')

    def as_json(self) -> dict[str, int]:
        """The parameters and the version of the drawing."""
        return dict(version=_VERSION, **asdict(self))


def write_scenes(root: str | os.PathLike, parameters: SceneParameters | None = None,
                 progress: bool = True) -> Path:
    """Draw a data set of scenes, or find that it has been drawn already.

    The folder is drawn under a temporary name beside ``root`` and renamed when it is complete: a
    folder named ``root`` is never half-drawn, and of several processes that draw it at once one
    wins and the others use its result.

    .. code-block:: none

        root
        ├── JPEGImages/{id}.png                   RGB
        ├── SegmentationClass/{id}.png            8-bit palette PNG, 255 = border
        ├── ImageSets/Segmentation/{train,val}.txt
        ├── image_labels.json                     {id: [class names]}
        └── scenes.json                           the parameters

    Args:
        root (str or PathLike): Folder to make. One that exists is used as it is.
        parameters (SceneParameters, optional): What to draw. Defaults to ``SceneParameters()``.
        progress (bool): Show a progress bar. Defaults to True.

    Returns:
        Path: ``root``.

    Raises:
        UserError: If ``root`` holds something else, or scenes drawn with other parameters.
    """
    root = Path(root)
    parameters = parameters or SceneParameters()
    if _is_drawn(root, parameters):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = root.with_name(f'.{root.name}.{uuid.uuid4().hex}.drawing')
    try:
        _write_all(draft, parameters, progress)
        os.rename(draft, root)
    except OSError:
        # Another process may have finished first: its folder is as good as ours.
        if not _is_drawn(root, parameters):
            raise
    finally:
        if draft.exists():
            shutil.rmtree(draft)
    return root


def _is_drawn(root: Path, parameters: SceneParameters) -> bool:
    """Whether ``root`` holds these scenes; raises if it holds anything else."""
    path = root / PARAMETERS_FILE
    if not path.is_file():
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise UserError(f'Expected {root} to be absent, empty or a folder of drawn scenes, but '
                            f'it has no {PARAMETERS_FILE}; choose another folder.')
        return False
    wanted = parameters.as_json()
    try:
        found = dict(json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise UserError(f'{path}: expected the parameters of the scenes as a JSON object, but '
                        f'could not read them ({error}). Remove {root} to draw it again, or choose '
                        'another folder.') from error
    if found != wanted:
        changes = ', '.join(f'{key} {found.get(key)} instead of {value}'
                            for key, value in wanted.items() if found.get(key) != value)
        raise UserError(f'The scenes in {root} were drawn with other parameters: {changes} (see '
                        f'{PARAMETERS_FILE}). Choose another folder, or remove this one to draw '
                        'it again.')
    return True


def _write_all(root: Path, parameters: SceneParameters, progress: bool) -> None:
    for folder in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (root / folder).mkdir(parents=True)
    labels: dict[str, list[str]] = {}
    counts = dict(train=parameters.num_train, val=parameters.num_val)
    with tqdm(total=sum(counts.values()), desc='Drawing scenes', disable=not progress) as bar:
        for number, split in enumerate(_SPLITS):
            names = [f'{split}_{index:05d}' for index in range(counts[split])]
            for index, name in enumerate(names):
                rng = np.random.default_rng([parameters.seed, number, index])
                scene = draw_scene(rng, parameters.size)
                _write_scene(root, name, scene)
                labels[name] = [CLASSES[tag - 1].name for tag in scene.tags]
                bar.update()
            (root / 'ImageSets/Segmentation' / f'{split}.txt').write_text(
                ''.join(f'{name}\n' for name in names))
    (root / 'image_labels.json').write_text(json.dumps(labels, indent=0))
    (root / PARAMETERS_FILE).write_text(json.dumps(parameters.as_json(), indent=2))


def _write_scene(root: Path, name: str, scene: Scene) -> None:
    path = root / 'JPEGImages' / f'{name}.png'
    if not cv2.imwrite(str(path), cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)):
        raise OSError(f'Could not write {path}.')
    write_mask(root / 'SegmentationClass' / f'{name}.png', scene.mask, PALETTE)
