"""Reading a config as every command does."""
from __future__ import annotations

import os
import textwrap
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from .errors import UserError
from .friendly import error_line

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
        UserError: If the config is missing, cannot be read, or does not read the variable that
            ``data_root`` sets, or if an option does not fit it.
    """
    if not os.path.isfile(path):
        raise UserError(f'{path}: no such config file.')
    if data_root is not None:
        os.environ[DATA_ROOT_VARIABLE] = data_root
    with _naming_config(path):
        config = Config.fromfile(path)
    if data_root is not None and not _mentions(config._cfg_dict, data_root):
        raise UserError(f'{path}: `--data-root` has no effect, for this config does not read '
                        f"{DATA_ROOT_VARIABLE}. Write `data_root='{{{{${DATA_ROOT_VARIABLE}:"
                        "DEFAULT}}'` there, or override its `data_root` with `--cfg-options`.")
    if options:
        _merge(config, options)
    config.work_dir = work_dir or config.get('work_dir') or f'./work_dirs/{Path(path).stem}'
    beside = os.path.realpath(config.work_dir) == os.path.realpath(os.path.dirname(path) or '.')
    if beside and '_base_' in Path(path).read_text(encoding='utf-8'):
        # MMEngine writes the config as it was run there, under the same name. That may replace
        # such a copy, which has no base, but not what somebody wrote.
        raise UserError(f'{config.work_dir}: this is the folder of {path} itself, which a run '
                        'would replace. Give another work directory.')
    _replace(config._cfg_dict, config.work_dir)
    return config


@contextmanager
def _naming_config(path: str | Path) -> Iterator[None]:
    """Say which file and line of a config it is that cannot be read.

    Raises:
        UserError: In place of any error that does not say itself what the user can mend.
    """
    try:
        yield
    except Exception as error:  # a config is Python: it may raise anything
        if error_line(error) is not None:
            raise
        raise UserError(f'{_place(error, path)}: the config cannot be read ({_short(error)}). '
                        'Correct it; `--debug` shows where the error comes from.') from error


def _place(error: BaseException, path: str | Path) -> str:
    """File and line of the config, or of one that it is based on, where an error was raised."""
    file, line = os.path.abspath(path), None
    for frame, number in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == file:
            line = number
        elif frame.f_globals.get('__name__') == Config.__module__:
            # What mmengine is reading: it hands the parser a text without a name.
            name = os.path.abspath(frame.f_locals.get('filename') or file)
            if name != file and os.path.isfile(name):
                file, line = name, None
    line = line or getattr(error, 'lineno', None)  # a text that cannot be parsed has no frame
    return f'{file}, line {line}' if line else file


def _merge(config: Config, options: Mapping[str, Any]) -> None:
    try:
        config.merge_from_dict(dict(options))
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        given = ' '.join(f'{key}={value}' for key, value in options.items())
        raise UserError(f'`--cfg-options {given}` does not fit the config ({_short(error)}). '
                        'Expected settings below dictionaries and positions that a list has.') \
            from error


def _short(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = text.replace('<unknown>, ', '')
    return f'{type(error).__name__}: {textwrap.shorten(text, 200, placeholder=" ...")}'


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
