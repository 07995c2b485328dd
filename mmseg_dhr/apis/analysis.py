"""What the analysis commands share: settings to print, files to write, changed pipelines."""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..formats.atomic import atomic_path
from ..utils import UserError
from .common import TrueMasks

__all__ = ['change_transforms', 'settings_of', 'settings_text', 'truth_folder', 'write_result']


def truth_folder(config: Config, dataset: Any) -> TrueMasks:
    """The true masks of a :class:`TaggedDataset`.

    Raises:
        UserError: If the config names none.
    """
    if 'score_masks' not in config:
        raise UserError('The config has no `score_masks`: the folder of the true masks, below the '
                        'data root. Only analysis reads it; training never does.')
    images = dataset.dataset
    return TrueMasks(Path(images.data_root or '.') / config.score_masks, images.seg_map_suffix,
                     images.reduce_zero_label)


def settings_of(config: Config, **more: Any) -> dict[str, Any]:
    """What a figure depends on: config, data, seed, propagation, and whatever else is given."""
    model = config.get('model') or {}
    propagation = model.get('propagation')
    images = (config.get('pseudo_label_dataset') or {}).get('dataset') or config
    return dict(
        config=str(config.filename), data_root=images.get('data_root'),
        seed=(config.get('randomness') or {}).get('seed'),
        propagation=None if propagation is None else propagation.to_dict(), **more)


def settings_text(settings: Mapping[str, Any]) -> str:
    """The settings on one line."""
    return ', '.join(f'{name} {value}' for name, value in settings.items() if value is not None)


def write_result(folder: str | Path, name: str, text: str, settings: Mapping[str, Any],
                 figures: Any) -> Path:
    """Write ``{name}.txt`` and ``{name}.json`` (settings and figures, NaN as null); returns the
    latter.
    """
    path = Path(folder) / f'{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(_without_nan(dict(settings=settings, figures=figures)), indent=1)
    with atomic_path(path) as temporary:
        temporary.write_text(content + '\n')
    with atomic_path(path.with_suffix('.txt')) as temporary:
        temporary.write_text(text + '\n')
    return path


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if value != value else value


def change_transforms(config: Any, kind: str,
                      change: Callable[[dict], dict | None]) -> tuple[Any, int]:
    """Replace the transforms of one type in every pipeline of a config.

    Args:
        config: Any part of a config: dicts and lists; it stays as it is.
        kind (str): The transforms' ``type``.
        change (Callable): Transform -> what stands in its place; None leaves it out.

    Returns:
        tuple: The changed copy, and how many transforms were found.
    """
    if isinstance(config, Mapping):
        changed = {key: change_transforms(part, kind, change) for key, part in config.items()}
        return {key: part for key, (part, _) in changed.items()}, sum(
            count for _, count in changed.values())
    if not isinstance(config, (list, tuple)):
        return config, 0
    parts, total = [], 0
    for part in config:
        if isinstance(part, Mapping) and part.get('type') == kind:
            new, count = change(dict(part)), 1
        else:
            new, count = change_transforms(part, kind, change)
        total += count
        if new is not None or count == 0:
            parts.append(new)
    return type(config)(parts), total
