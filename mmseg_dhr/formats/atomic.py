"""Files that are either whole or absent."""
from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ['atomic_path']

PathLike = str | os.PathLike


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Give a temporary name beside ``path``; what was written there becomes ``path`` on success.

    A process that dies half-way leaves the old file, or none. Missing parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{secrets.token_hex(8)}.tmp')
    # Made as open() would make it: mkstemp's files are private, and the umask that would tell the
    # ordinary mode cannot be read without setting it, for all threads.
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    mode = os.fstat(handle).st_mode & 0o777
    os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, mode)  # safetensors puts a private file in its place
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
