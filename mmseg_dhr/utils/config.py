"""Reading a config as every command does."""
from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from .errors import UserError

__all__ = ['DATA_ROOT_VARIABLE', 'load_config']

DATA_ROOT_VARIABLE = 'MMSEG_DHR_DATA'
_WORK_DIR = '{work_dir}'


def load_config(path: str | Path, work_dir: str | None = None, data_root: str | None = None,
                options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file and settle its folders.

    Args:
        path: Config file.
        work_dir (str, optional): Overrides the config's; the default is
            ``work_dirs/<config name>``.
        data_root (str, optional): Overrides the environment variable ``MMSEG_DHR_DATA``, which
            configs name as their data root.
        options (Mapping, optional): ``--cfg-options``.

    Returns:
        Config: With ``work_dir`` set and ``{work_dir}`` replaced in every string.

    Raises:
        UserError: If the config is missing, or does not read the variable that ``data_root`` sets.
    """
    if not os.path.isfile(path):
        raise UserError(f'{path}: no such config file.')
    if data_root is not None:
        os.environ[DATA_ROOT_VARIABLE] = data_root
    config = Config.fromfile(path)
    if data_root is not None and not _mentions(config._cfg_dict, data_root):
        raise UserError(f'{path}: `--data-root` has no effect, for this config does not read '
                        f"{DATA_ROOT_VARIABLE}. Write `data_root='{{{{${DATA_ROOT_VARIABLE}:"
                        "DEFAULT}}'` there, or override its `data_root` with `--cfg-options`.")
    if options:
        config.merge_from_dict(dict(options))
    config.work_dir = work_dir or config.get('work_dir') or f'./work_dirs/{Path(path).stem}'
    _replace(config._cfg_dict, config.work_dir)
    return config


def _mentions(node: Any, text: str) -> bool:
    if isinstance(node, str):
        return node.startswith(text)
    parts = node.values() if isinstance(node, Mapping) else \
        node if isinstance(node, (list, tuple)) else ()
    return any(_mentions(part, text) for part in parts)


def _replace(node: Any, work_dir: str) -> Any:
    """Put the work directory into strings, in place for dicts and lists."""
    if isinstance(node, str):
        return node.replace(_WORK_DIR, work_dir)
    if isinstance(node, tuple):
        return tuple(_replace(value, work_dir) for value in node)
    pairs = node.items() if isinstance(node, (dict, ConfigDict)) else \
        enumerate(node) if isinstance(node, list) else ()
    for key, value in list(pairs):
        node[key] = _replace(value, work_dir)
    return node
