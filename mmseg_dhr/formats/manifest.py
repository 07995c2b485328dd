"""What an output folder holds, made with which settings, and what is still missing.

A command that writes one file per image opens its folder with :func:`open_output`, writes the files
that :attr:`OutputFolder.remaining` names, and calls :meth:`OutputFolder.finish`. Run again with the
same settings it goes on where it stopped; with other settings it refuses to mix the two.
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .atomic import PathLike, atomic_path

__all__ = [
    'MANIFEST_NAME', 'Manifest', 'OutputFolder', 'open_output', 'origin_of', 'state_fingerprint'
]

MANIFEST_NAME = 'manifest.json'


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Contents of ``manifest.json``.

    Args:
        settings (dict): What the files depend on: settings and the fingerprint of the weights.
            Anything that JSON can hold.
        complete (bool): Whether every file was written.
        count (int): Number of files once complete.
        suffix (str): Suffix of the files; '' = not recorded.
        details (dict): By image id, what its file alone depends on, such as its tags.
    """

    settings: dict[str, Any]
    complete: bool = False
    count: int = 0
    suffix: str = ''
    details: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings."""
        return hashlib.sha256(_canonical(self.settings).encode()).hexdigest()

    def save(self, folder: PathLike) -> None:
        """Write into ``folder``, atomically."""
        content = dict(fingerprint=self.fingerprint, **dataclasses.asdict(self))
        with atomic_path(Path(folder) / MANIFEST_NAME) as temporary:
            temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n')

    @classmethod
    def load(cls, folder: PathLike) -> Manifest | None:
        """Read the manifest of ``folder``; None if there is none.

        Raises:
            ValueError: If the file cannot be understood.
        """
        path = Path(folder) / MANIFEST_NAME
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text())
            return cls(content['settings'], bool(content['complete']), int(content['count']),
                       str(content.get('suffix', '')), dict(content.get('details', {})))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path}: expected an object with `settings`, `complete` and `count`, '
                             f'but could not read it ({type(error).__name__}: {error}).') from error


@dataclasses.dataclass(frozen=True)
class OutputFolder:
    """An output folder that is being filled.

    Args:
        folder (Path): The folder.
        manifest (Manifest): Its manifest.
        ids (tuple[str, ...]): Ids of all files it shall hold.
        suffix (str): Suffix of the files, such as '.png'.
    """

    folder: Path
    manifest: Manifest
    ids: tuple[str, ...]
    suffix: str

    def path(self, image_id: str) -> Path:
        """The file of one image."""
        return self.folder / f'{image_id}{self.suffix}'

    @property
    def remaining(self) -> list[str]:
        """Ids whose file is not there yet, in order."""
        existing = set(os.listdir(self.folder))
        return [i for i in self.ids if f'{i}{self.suffix}' not in existing]

    def finish(self) -> None:
        """Mark the folder as complete.

        Raises:
            RuntimeError: If files are missing.
        """
        missing = self.remaining
        if missing:
            raise RuntimeError(f'{self.folder}: {len(missing)} of {len(self.ids)} files are '
                               f'missing, among them {missing[:3]}. Run the command again to '
                               'make them.')
        dataclasses.replace(self.manifest, complete=True, count=len(self.ids)).save(self.folder)


def open_output(folder: PathLike, settings: Mapping[str, Any], ids: Sequence[str], suffix: str,
                overwrite: bool = False,
                details: Mapping[str, str] | None = None) -> OutputFolder:
    """Open a folder for one file per image, made with ``settings``.

    Files that the same settings made are kept, but for those whose detail has changed: they are
    deleted, to be made anew. If the folder's files were made with other settings, that is an error,
    or they are deleted first if ``overwrite`` is given. Files of a folder without manifest are not
    ours and are never deleted, nor are files of another suffix.

    Args:
        folder: Output folder; made if absent.
        settings (Mapping): Everything that all files depend on, as JSON can hold it.
        ids (Sequence[str]): Image ids.
        suffix (str): Suffix of the files, with its dot.
        overwrite (bool): Whether to replace files of other settings. Defaults to False.
        details (Mapping, optional): By image id, what its file depends on beside the settings.

    Raises:
        ValueError: If the folder holds files of other settings, of another kind, or of unknown
            origin; if ``settings`` is nothing that JSON can hold.
    """
    folder = Path(folder)
    manifest = Manifest(json.loads(_canonical(settings)), suffix=suffix,
                        details=dict(details or {}))
    folder.mkdir(parents=True, exist_ok=True)
    previous = Manifest.load(folder)
    _check_origin(folder, previous, manifest)
    outdated: list[Path] = []
    if previous is not None and previous.fingerprint != manifest.fingerprint:
        outdated = _files(folder, suffix)
        if outdated and not overwrite:
            raise ValueError(
                f'{folder}: its {len(outdated)} *{suffix} files were made with other settings: '
                f'{_difference(previous.settings, manifest.settings)}. Give another folder, remove '
                'this one, or let the command that fills it replace them with `--overwrite`.')
    elif previous is not None:
        outdated = [folder / f'{image_id}{suffix}' for image_id, detail in manifest.details.items()
                    if previous.details.get(image_id, detail) != detail]
        manifest.details.update({**previous.details, **manifest.details})
    for path in outdated:  # before the new manifest: a crash in between leaves the old one
        path.unlink(missing_ok=True)
    manifest.save(folder)
    return OutputFolder(folder, manifest, tuple(ids), suffix)


def _files(folder: Path, suffix: str) -> list[Path]:
    return [path for path in folder.glob(f'*{suffix}') if path.name != MANIFEST_NAME]


def _check_origin(folder: Path, previous: Manifest | None, manifest: Manifest) -> None:
    """Refuse files of unknown origin, and a folder that another kind of file lives in."""
    if previous is None:
        files = _files(folder, manifest.suffix)
        if files:
            raise ValueError(
                f'{folder}: expected an empty folder or one with a {MANIFEST_NAME}, but found '
                f'{len(files)} *{manifest.suffix} files of unknown origin, such as '
                f'{files[0].name}. Give another folder.')
    elif previous.suffix not in ('', manifest.suffix):
        files = _files(folder, previous.suffix)
        if files:
            raise ValueError(
                f'{folder}: expected a folder for *{manifest.suffix} files, but found '
                f'{len(files)} *{previous.suffix} files, such as {files[0].name}, which its '
                f'{MANIFEST_NAME} describes. Give another folder.')


def origin_of(folder: PathLike) -> Any:
    """What made the files of a folder, for the settings of what is made from them.

    Returns:
        Any: The settings of its manifest; its path where it has none.
    """
    manifest = Manifest.load(Path(folder))
    return str(folder) if manifest is None else manifest.settings


def state_fingerprint(state: nn.Module | Mapping[str, Any]) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of a module's or state dict's tensors.

    Independent of the order of the entries and of the device. Entries that are no tensor count with
    their ``repr``.
    """
    if isinstance(state, nn.Module):
        state = state.state_dict()
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if isinstance(value, Tensor):
            digest.update(f'{name}|{value.dtype}|{tuple(value.shape)}|'.encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f'{name}|{value!r}|'.encode())
    return digest.hexdigest()


def _canonical(settings: Mapping[str, Any]) -> str:
    try:
        return json.dumps(settings, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError('Expected `settings` of what JSON can hold (numbers, strings, lists, '
                         f'dicts), but {error}.') from error


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return ', '.join(f'{key} was {old.get(key)!r} and is now {new.get(key)!r}' for key in changed)
