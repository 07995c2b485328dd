"""Checks of what a user gives, before anything expensive is built."""
from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from mmengine.runner import CheckpointLoader
from PIL import Image, ImageOps
from torch import Tensor, nn

from ..formats import load_torch_file
from .errors import UserError

__all__ = [
    'check_checkpoint', 'check_datasets', 'check_depth', 'check_scales', 'check_state',
    'leaf_datasets', 'missing_part', 'naming_broken_files', 'read_checkpoint', 'spare_inputs'
]

_HOW_TO_GIVE = ('Give the folder of your data with `--data-root FOLDER` or the environment '
                'variable MMSEG_DHR_DATA, or set `data_root` in the config.')
# Files that one of the commands makes.
_TO_MAKE = dict.fromkeys(('train2014.txt', 'train2014_objects.txt', 'val2014.txt',
                          'val2014_objects.txt', 'masks/train2014', 'masks/val2014'),
                         'coco_objects')
_TO_MAKE['trainaug.txt'] = 'voc_trainaug'

# Draws its folder itself when it is first loaded.
_SELF_MADE = ('ScenesDataset', )

# Parts that no prediction needs: a checkpoint may lack them.
_TRAINING_PARTS = ('cam_head.', 'auxiliary_head.', 'segmentor.auxiliary_head.', 'propagation.')

# What readers say of a damaged file, and metrics of a mask that does not cover its image; most of
# them do not name the file.
_BROKEN = re.compile('cannot identify image file|image file is truncated|broken data stream|'
                     'Truncated File Read|unrecognized data stream|failed to load image|imdecode|'
                     'shape of the mask|stack expects each tensor')


def leaf_datasets(dataset: Mapping[str, Any], key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Configs of the data sets inside wrappers (``dataset``, ``datasets``), with their keys.

    Args:
        dataset (Mapping): Config of a data set.
        key (str): Its key in the config, such as 'test_dataloader.dataset'.

    Yields:
        tuple[str, Mapping]: Key and config; the data set itself if it wraps none.
    """
    if isinstance(dataset.get('dataset'), Mapping):
        yield from leaf_datasets(dataset['dataset'], f'{key}.dataset')
    elif isinstance(dataset.get('datasets'), Sequence):
        for i, part in enumerate(dataset['datasets']):
            yield from leaf_datasets(part, f'{key}.datasets[{i}]')
    else:
        yield key, dataset


def check_datasets(cfg: Mapping[str, Any],
                   splits: Sequence[str] = ('train', 'val', 'test')) -> None:
    """Check that the folders and lists of the data sets exist.

    Args:
        cfg (Mapping): Config with ``{split}_dataloader``; a split without one is passed over.
        splits (Sequence[str]): What to check. Defaults to train, val and test.

    Raises:
        UserError: Names the config key, the path, what the folder should hold and how to give
            another.
    """
    for split in splits:
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        if isinstance(dataset, Mapping):
            for key, leaf in leaf_datasets(dataset, f'{split}_dataloader.dataset'):
                _check_dataset(key, leaf)


def _check_dataset(key: str, dataset: Mapping[str, Any]) -> None:
    problem = missing_part(dataset, f'{key}.', ('img_path', 'seg_map_path'))
    if problem:
        raise UserError(problem)


def missing_part(dataset: Mapping[str, Any], key: str = '',
                 folders: Sequence[str] = ('img_path', )) -> str | None:
    """What a data set lacks on this file system: its root, its list or a folder.

    Args:
        dataset (Mapping): Config of a data set that wraps no other.
        key (str): Of the data set in the config, with a dot at the end. Defaults to none.
        folders (Sequence[str]): Keys of ``data_prefix`` that are needed. Defaults to the images.

    Returns:
        str | None: What is missing, what the root should hold, what is there and what to do; None
        if all is there, or the data set makes its files or keeps them elsewhere.
    """
    if dataset.get('backend_args') or dataset.get('type') in _SELF_MADE:
        return None
    root = dataset.get('data_root')
    prefixes = dataset.get('data_prefix') or {}
    named = {'ann_file': dataset.get('ann_file')}
    named.update({f'data_prefix.{name}': prefixes.get(name) for name in folders})
    parts = {name: part for name, part in named.items() if part}
    layout = ', '.join(f'{part} ({name})' for name, part in parts.items()) or 'the images'
    if root and not os.path.isdir(root):
        return (f'{root}: no such data folder (`{key}data_root`). Expected a folder that holds '
                f'{layout}, but {_nearest(root)}. {_HOW_TO_GIVE}')
    for name, part in parts.items():
        path = os.path.join(root or '', part)
        if not os.path.exists(path):
            return (f'{path}: not found (`{key}{name}`). Expected {root or "the data root"} to '
                    f'hold {layout}, but {_nearest(path)}. {_how_to_make(path, root)}'
                    f'{_HOW_TO_GIVE}')
    return None


def _how_to_make(path: str, root: str | None) -> str:
    for end, tool in _TO_MAKE.items():
        if path.endswith(f'/{end}'):
            return f'Make it with `python tools/dataset_converters/{tool}.py {root or "FOLDER"}`. '
    return ''


def _nearest(path: str) -> str:
    """What the nearest existing parent of a missing path holds."""
    folder = next(p for p in Path(path).absolute().parents if p.is_dir())
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith('.'))
    shown = ', '.join(names[:8]) + (', ...' if len(names) > 8 else '')
    return f'found in {folder}: {shown or "nothing"}'


@contextmanager
def naming_broken_files(cfg: Mapping[str, Any], splits: Sequence[str]) -> Iterator[None]:
    """Find the file when an image reader or a metric fails without naming it.

    Args:
        cfg (Mapping): Config with ``{split}_dataloader``.
        splits (Sequence[str]): Which data sets to search.

    Raises:
        UserError: Names the first image or mask that is damaged, or the first mask of another size
            than its image; any other error passes.
    """
    try:
        yield
    except Exception as error:
        if not _BROKEN.search(str(error)):
            raise
        for info in _data_infos(cfg, splits):
            sizes = {name: _size_of(info[name]) for name in ('img_path', 'seg_map_path')
                     if name in info}
            if len(set(sizes.values())) > 1:
                (width, height), found = sizes['img_path'], sizes['seg_map_path']
                raise UserError(f"{info['seg_map_path']}: expected a mask of its image's size "
                                f'{height}x{width} (HxW), but found {found[1]}x{found[0]}. Replace '
                                'it, or take the image off the list.') from error
        raise


def check_depth(image: Image.Image, path: str | os.PathLike) -> None:
    """Refuse a photo whose values are no bytes: Pillow cuts them off at 255 and makes it white.

    Args:
        image (Image.Image): Opened; only its header is looked at.
        path (str | PathLike): Its file.

    Raises:
        UserError: If it is a grey image of 16 or 32 bits, or one of floating point numbers.
    """
    if image.mode.startswith(('I', 'F')):
        raise UserError(f"{path}: expected a photo of 8 bits a colour, but found Pillow's mode "
                        f'{image.mode!r} (16-bit, 32-bit or floating point grey). Convert it to 8 '
                        'bits, from 0 for black to 255 for white.')


def _size_of(path: str) -> tuple[int, int]:
    """Width and height of an image file that can be decoded as a whole.

    Raises:
        UserError: If it cannot.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image).size
    except (OSError, SyntaxError) as cause:
        raise UserError(f'{path}: expected a whole image file, but it cannot be decoded '
                        f'({cause}). Replace it, or take it off the list.') from cause


def _data_infos(cfg: Mapping[str, Any], splits: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    from mmseg.registry import DATASETS

    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not loader:
            continue  # a config without masks has nothing to validate with
        for _, leaf in leaf_datasets(loader['dataset'], split):
            dataset = DATASETS.build({**leaf, 'pipeline': []})
            yield from map(dataset.get_data_info, range(len(dataset)))


def check_checkpoint(model: nn.Module, path: str | os.PathLike) -> None:
    """Check that a checkpoint brings every weight that a prediction needs, in the right shape.

    mmengine only logs what does not fit and goes on with random weights.

    Args:
        model (nn.Module): Segmentor, or one wrapped for several processes or test-time
            augmentation.
        path (str | PathLike): File or URL, anything that mmengine loads.

    Raises:
        UserError: If the file is missing or broken, or its weights are of another model or of
            another number of classes.
    """
    while isinstance(getattr(model, 'module', None), nn.Module):
        model = cast(nn.Module, model.module)
    check_state(model, read_checkpoint(path)[0], path)


def check_state(model: nn.Module, state: Mapping[str, Any], path: str | os.PathLike) -> None:
    """The same for weights that were read from ``path``.

    Raises:
        UserError: If they are of another model or of another number of classes.
    """
    expected = model.state_dict()
    wrong = [name for name in expected if name in state and
             state[name].shape != expected[name].shape]
    if wrong:
        raise UserError(
            f'{path}: the checkpoint is of another model or for another number of classes: '
            f'{wrong[0]} has shape {tuple(state[wrong[0]].shape)} there, but the config makes '
            f'{tuple(expected[wrong[0]].shape)} ({len(wrong)} weights differ). Test with the '
            'config that it was trained with.')
    missing = [name for name in expected if name not in state and
               not name.startswith(_TRAINING_PARTS) and not name.endswith('num_batches_tracked')]
    if missing:
        raise UserError(
            f'{path}: the checkpoint is of another model: {len(missing)} of the {len(expected)} '
            f'weights are not in it, such as {missing[0]}; it holds '
            f'{next(iter(state), "nothing")!r} and others. Test with the config that it was '
            'trained with.')


def read_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and meta information of a checkpoint.

    Args:
        path (str | PathLike): File or URL, anything that mmengine loads.

    Returns:
        tuple[dict, dict]: The state dict without the prefix of a distributed wrapper, and ``meta``.

    Raises:
        UserError: If the file is missing or broken, or asks for more than tensors, plain containers
            and what mmengine writes beside them.
    """
    path = os.fspath(path)
    if '://' not in path and not os.path.isfile(path):
        raise UserError(f'{path}: no such checkpoint. Expected the .pth file of a training, found '
                        'in its `--work-dir`.')
    checkpoint = _load_url(path) if '://' in path else _load_local(path)
    state = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if not isinstance(state, dict):
        raise UserError(f'{path}: expected a checkpoint with a `state_dict`, but found '
                        f'{type(state).__name__}.')
    return ({name.removeprefix('module.'): value for name, value in state.items()
             if isinstance(value, Tensor)}, checkpoint.get('meta') or {})


def _load_local(path: str) -> Any:
    """Read a file through this package's allow-list, whatever the version of torch."""
    try:
        return load_torch_file(path)
    except ValueError as error:  # the text names the file
        raise UserError(f'{error} Expected a checkpoint of weights, as a training writes it.') \
            from error


def _load_url(path: str) -> Any:
    try:
        return CheckpointLoader.load_checkpoint(path, map_location='cpu')
    except Exception as error:  # torch and pickle raise types of many kinds for a broken file
        first = str(error).strip().split('\n')[0]
        raise UserError(f'{path}: not a checkpoint that can be read '
                        f'({type(error).__name__}: {first}).') from error


def spare_inputs(outputs: Iterable[str | os.PathLike], inputs: Iterable[str | os.PathLike]) -> None:
    """See that nothing that is read is written over.

    Args:
        outputs: Files or folders that are to be written.
        inputs: Files or folders that are read.

    Raises:
        UserError: If one is the other; names it.
    """
    read = {os.path.realpath(path) for path in inputs}
    for path in outputs:
        if os.path.realpath(path) in read:
            raise UserError(f'{os.fspath(path)}: it is read here, and would be written over. Give '
                            'another output.')


def check_scales(scales: Sequence[float]) -> None:
    """Raise a ValueError unless there are scales, all of them positive."""
    if not scales or not all(scale > 0 for scale in scales):
        raise ValueError(f'Expected positive scales, but got {list(scales)}.')
