"""The files in which heads of USS encoders come, official ones and our own."""
from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...formats import load_npy, load_torch_file
from ...utils import UserError

__all__ = ['HeadFile', 'read_cause', 'read_codebook', 'read_state_dict', 'read_stego']

StateDict = dict[str, Any]


class HeadFile(NamedTuple):
    """What a file holds.

    Attributes:
        layout (str): Name of the layout that was found.
        head (dict): State dict of the head.
        backbone (dict, optional): State dict of the transformer, where it is part of the file.
        codebook (Tensor, optional): (codes, F), where it is part of the file.
    """
    layout: str
    head: StateDict
    backbone: StateDict | None = None
    codebook: Tensor | None = None


def read_state_dict(path: Path) -> StateDict:
    """The dict in a ``.safetensors`` or ``torch.save`` file; nothing of the file is run.

    Raises:
        UserError: If the file is missing or holds no dict.
    """
    if not path.is_file():
        raise UserError(f'USS encoder weights not found: expected the file {path}. '
                        'docs/en/uss.md says which files there are and where they go.')
    if path.suffix == '.safetensors':
        from safetensors.torch import load_file
        return load_file(str(path))
    content = load_torch_file(path)
    if not isinstance(content, dict):
        raise UserError(f'{path}: expected a state dict, but found {type(content).__name__}.')
    return content


def read_stego(path: Path) -> HeadFile:
    """Read a STEGO head.

    Layouts: the official Lightning checkpoint (``state_dict`` with ``net.cluster1.*``,
    ``net.cluster2.*`` and the transformer as ``net.model.*``), DHR's release
    (``{'cluster1', 'cluster2'}``), a checkpoint of a training here (``state_dict`` with
    ``head.*``), and the state dict of :class:`STEGOHead`.

    Raises:
        UserError: If the file is missing or has another layout.
    """
    content = read_state_dict(path)
    inner = _inner(content)
    if 'net.cluster1.0.weight' in inner:
        heads = {key: value for key, value in _below(inner, 'net.').items()
                 if key.startswith(('cluster1.', 'cluster2.'))}
        return HeadFile("STEGO's Lightning checkpoints", heads,
                        _below(inner, 'net.model.') or None)
    if isinstance(content.get('cluster1'), dict) and isinstance(content.get('cluster2'), dict):
        return HeadFile("DHR's release of STEGO", {
            f'{part}.{key}': value for part in ('cluster1', 'cluster2')
            for key, value in content[part].items()})
    if 'head.cluster1.0.weight' in inner:
        return HeadFile('a training here', _below(inner, 'head.'))
    if 'cluster1.0.weight' in inner:
        return HeadFile('the state dict of a STEGO head', inner)
    raise _unknown(path, content, "`net.cluster1.*` (STEGO's Lightning checkpoint), "
                   "`cluster1` and `cluster2` (DHR's release), `head.*` (a training here) or "
                   '`cluster1.*` (the state dict of a head)')


def read_cause(path: Path) -> HeadFile:
    """Read a CAUSE head, of either kind.

    Layouts: the official ``segment_tr.pth`` or ``segment_mlp.pth`` and the checkpoints of a
    training here (``head_ema.*``), DHR's release (``{'decoder', 'codebook'}``), and the state dict
    of :class:`CAUSETRHead` or :class:`CAUSEMLPHead`.

    Raises:
        UserError: If the file is missing or has another layout.
    """
    content = read_state_dict(path)
    inner = _inner(content)
    if any(str(key).startswith('head_ema.') for key in inner):
        return HeadFile("CAUSE's segment heads", _flat_f1(_below(inner, 'head_ema.')))
    if isinstance(content.get('decoder'), dict):
        decoder, codebook = content['decoder'], content.get('codebook')
        return HeadFile("DHR's release of CAUSE", _flat_f1(decoder),
                        codebook=None if codebook is None else _matrix(codebook, path))
    if any(str(key).startswith('f2.') for key in inner):
        return HeadFile('the state dict of a CAUSE head', _flat_f1(inner))
    raise _unknown(path, content, '`head_ema.*` (segment_tr.pth, segment_mlp.pth), '
                   "`decoder` and `codebook` (DHR's release) or `f1.*` and `f2.*` (the state dict "
                   'of a head)')


def read_codebook(path: Path) -> Tensor:
    """Read the codebook of CAUSE, ``modular.npy`` or the entry ``codebook`` of a ``.pth``.

    Returns:
        Tensor: (codes, F), float32.

    Raises:
        UserError: If the file is missing or holds no matrix.
    """
    if not path.is_file():
        raise UserError(f'Codebook not found: expected the file {path} (modular.npy or '
                        'cluster_tr.pth of CAUSE). The features do not need it: leave it out.')
    if path.suffix == '.npy':
        return _matrix(load_npy(path), path)
    content = load_torch_file(path)
    if isinstance(content, dict):
        if 'codebook' not in content:
            raise _unknown(path, content, '`codebook`')
        content = content['codebook']
    return _matrix(content, path)


def _inner(content: StateDict) -> StateDict:
    """The state dict within a checkpoint, or the content itself."""
    inner = content.get('state_dict')
    return inner if isinstance(inner, dict) else content


def _below(state: StateDict, prefix: str) -> StateDict:
    return {key[len(prefix):]: value for key, value in state.items()
            if str(key).startswith(prefix)}


def _flat_f1(state: StateDict) -> StateDict:
    """A single convolution may have been saved as a sequence of one."""
    return {key.replace('f1.0.', 'f1.', 1) if key.startswith('f1.0.') else key: value
            for key, value in state.items()}


def _matrix(value: Any, path: Path) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind == 'f':
        value = torch.from_numpy(value)
    if not torch.is_tensor(value) or value.ndim != 2:
        raise UserError(f'{path}: expected the codebook to be a matrix, but found '
                        f'{getattr(value, "shape", type(value).__name__)}.')
    return value.detach().float()


def _unknown(path: Path, content: StateDict, expected: str) -> UserError:
    found = list(_inner(content))
    names = ', '.join(map(str, found[:8])) + (', ...' if len(found) > 8 else '')
    return UserError(f'{path}: unknown layout. Expected {expected}; found the keys: {names}.')
