"""Lists of image ids and work on many files."""
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from ...formats import atomic_path
from ...utils import UserError

__all__ = ['cores', 'for_each', 'read_list', 'write_list']

Item = TypeVar('Item')
Result = TypeVar('Result')


def cores() -> int:
    """Cores that this process may use."""
    # macOS and Windows cannot say more than how many there are.
    known = getattr(os, 'sched_getaffinity', None)
    return len(known(0)) if known is not None else os.cpu_count() or 1


def read_list(path: str | Path, how: str = '') -> list[str]:
    """Ids of a list, in order, without blank lines.

    Args:
        path: Text file with one image id per line.
        how (str): How to get the list, for the error.

    Raises:
        UserError: If the list is missing or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'{path}: no such list. {how}'.strip())
    ids = path.read_text(encoding='utf-8').split()
    if not ids:
        raise UserError(f'{path}: expected one image id per line, but the list is empty. '
                        f'{how}'.strip())
    return ids


def write_list(path: str | Path, ids: Sequence[str]) -> None:
    """Write one id per line, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(''.join(f'{image_id}\n' for image_id in ids), encoding='utf-8')


def for_each(work: Callable[[Item], Result], items: Sequence[Item], title: str,
             jobs: int = 1) -> Iterator[Result]:
    """Results of a function in the order of the items, behind a progress bar.

    Args:
        work (Callable): Defined at the top of a module, and picklable like the items if ``jobs``
            is not 1.
        items (Sequence): What to work on.
        title (str): Of the bar, which is shown on a terminal.
        jobs (int): Processes; 1 stays in this one. Defaults to 1.
    """
    with ExitStack() as stack:
        results: Iterator[Result] = map(work, items)
        if jobs > 1:
            pool = stack.enter_context(ProcessPoolExecutor(jobs))
            results = pool.map(work, items, chunksize=16)
        yield from tqdm(results, desc=title, total=len(items), disable=not sys.stderr.isatty())
