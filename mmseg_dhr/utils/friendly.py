"""Errors that the user can mend, told in one line."""
from __future__ import annotations

import errno
import linecache
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError

__all__ = ['DEBUG_ENV', 'error_line', 'friendly_errors']

DEBUG_ENV = 'MMSEG_DHR_DEBUG'

# A full disk or a read-only one
_FULL_OR_LOCKED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep
_FRAME = re.compile(r'^  File "(.+)", line (\d+)')

# Errors of the libraries below that a user can mend: (part of the text, what to say instead).
_FOREIGN = (
    (re.compile(r'failed to load image: (.+)'),
     r'\1: expected an image, but it cannot be decoded. Replace it, or take it off the list.'),
    (re.compile(r'Failed to load `ann_file` (.+)'),
     r'\1: no such list of images. Give the folder of your data with `--data-root`.'),
    (re.compile(r'.*imdecode.*buf\.empty\(\).*'),
     'An image file of the data set is empty (0 bytes). Find it with `find FOLDER -size 0`.'),
    (re.compile(r'cannot identify image file (.+)'),
     r'A mask of the data set is no image: \1.'),
    (re.compile(r'(\S+ is not in the \S+ registry\.).*'),
     r'\1 Check the spelling in the config, and that `custom_imports` names its module.'),
)


@contextmanager
def friendly_errors(debug: bool = False) -> Iterator[None]:
    """Turn errors that the user can mend into one line and exit code 2.

    All others, and with ``debug`` or the environment variable ``MMSEG_DHR_DEBUG`` every error, keep
    their traceback.

    Args:
        debug (bool): Change nothing. Defaults to False.

    Raises:
        SystemExit: With code 2, after the line was printed to stderr.
    """
    try:
        yield
    except Exception as error:
        line = error_line(error)
        if debug or os.environ.get(DEBUG_ENV, '0') != '0' or line is None:
            raise
        print(f'error: {line}', file=sys.stderr)
        raise SystemExit(2) from None


def error_line(error: BaseException) -> str | None:
    """One line for an error that the user can mend, None for any other.

    An error is the user's if it is a :class:`UserError`, if this package raised it on purpose (the
    innermost frame is a ``raise`` of ours), if a file is missing or unreadable, or if it is one of
    the errors of mmseg known here. A data loader's worker passes its errors on as text; they are
    read from there.
    """
    kind, text, file, line = _origin(error)
    ours = file.startswith(_PACKAGE) and linecache.getline(file, line).lstrip().startswith('raise ')
    if ours or isinstance(error, UserError):
        return _one_line(text)
    for pattern, replacement in _FOREIGN:
        match = pattern.search(_one_line(text))
        if match:
            return match.expand(replacement)
    if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError
                  | IsADirectoryError | FileExistsError) or (
                      isinstance(error, OSError) and error.errno in _FULL_OR_LOCKED):
        return _one_line(text)
    if kind == 'ConfigParsingError':
        return _one_line(text)
    return None


def _origin(error: BaseException) -> tuple[str, str, str, int]:
    """Type name, text, and the file and line where the error was raised."""
    text = str(error.args[0]) if error.args and isinstance(error, KeyError) else str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f'{error.filename}: {error.strerror}.'
    if text.startswith('Caught ') and 'Original Traceback' in text:
        return _origin_of_text(text)
    frames = traceback.extract_tb(error.__traceback__)
    file, line = (frames[-1].filename, frames[-1].lineno or 0) if frames else ('', 0)
    return type(error).__name__, text, file, line


def _origin_of_text(text: str) -> tuple[str, str, str, int]:
    lines = text.rstrip().split('\n')
    last = max((i for i, line in enumerate(lines) if _FRAME.match(line)), default=0)
    frame = _FRAME.match(lines[last])
    file, number = (frame[1], int(frame[2])) if frame else ('', 0)
    # Source line and markers of the frame are indented by four; the error follows.
    message = '\n'.join(line for line in lines[last + 1:] if not line.startswith('    '))
    kind, _, rest = message.partition(': ')
    return kind.rpartition('.')[2], rest or message, file, number


def _one_line(text: str) -> str:
    return ' '.join(text.split())
