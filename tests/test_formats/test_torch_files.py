"""Files of torch.save: tensors come through, settings of libraries as stand-ins, nothing runs."""
from __future__ import annotations

import argparse
import collections
import os
import pathlib
import pickle
import sys
import types
import typing

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from mmseg_dhr.formats import UnsafePickleError, load_torch_file

TENSORS = {
    'plain': torch.arange(6.).view(2, 3), 'strided': torch.arange(6).view(2, 3).t(),
    'half': torch.tensor([1.5], dtype=torch.float16), 'bfloat': torch.ones(2, dtype=torch.bfloat16),
    'empty': torch.zeros(0, 3), 'bool': torch.tensor(True),
    'parameter': torch.nn.Parameter(torch.ones(2)),
}
OTHERS = {
    'numbers': [1, 2.5, None, True, 'text', (1, )], 'set': {1, 2}, 'dtype': torch.float16,
    'size': torch.Size([1, 2]), 'device': torch.device('cpu'), 'array': np.arange(3),
    'scalar': np.float64(2), 'ordered': collections.OrderedDict(a=1),
    'default': collections.defaultdict(list, a=[1]),
}


class Attack:
    """A pickle that would make a folder when it is loaded the ordinary way."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def foreign(monkeypatch):
    """Objects of a library that is gone again when the file is read."""
    library = types.ModuleType('omegaconf.dictconfig')

    class DictConfig(dict):  # items, state and slots at once

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.metadata = dict(kind=typing.Any)

    class ListConfig(list):
        pass

    class Node:
        __slots__ = ('value', )

        def __init__(self):
            self.value = 3

    class Called:

        def __init__(self, *args):
            pass

        def __reduce__(self):
            return Called, (1, dict(a=2)), dict(state=1)

    for kind in (DictConfig, ListConfig, Node, Called):
        kind.__module__, kind.__qualname__ = library.__name__, kind.__name__
        setattr(library, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, 'omegaconf', types.ModuleType('omegaconf'))
    monkeypatch.setitem(sys.modules, library.__name__, library)
    yield lambda: dict(config=DictConfig(a=ListConfig([1])), node=Node(), called=Called(),
                       kind=DictConfig)


def forget(*modules):
    for module in modules:
        sys.modules.pop(module, None)


@pytest.mark.parametrize('zipped', [True, False])
def test_tensors_and_containers(tmp_path, zipped) -> None:
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': TENSORS, **OTHERS}, path, _use_new_zipfile_serialization=zipped)
    found = load_torch_file(path)
    for name, expected in TENSORS.items():
        value = found['state_dict'][name]
        assert value.dtype == expected.dtype and value.stride() == expected.stride()
        assert torch.equal(value, expected)
    assert isinstance(found['state_dict']['parameter'], torch.nn.Parameter)
    for name, other in OTHERS.items():
        assert type(found[name]) is type(other)
        assert np.all(found[name] == other)


def test_tensors_share_storage_as_saved(tmp_path) -> None:
    whole = torch.arange(4.)
    torch.save([whole, whole[1:]], tmp_path / 'a.pth')
    first, second = load_torch_file(tmp_path / 'a.pth')
    first[1] = 9
    assert second[0] == 9


@pytest.mark.parametrize('zipped', [True, False])
def test_settings_of_absent_libraries(tmp_path, foreign, zipped) -> None:
    path = tmp_path / 'a.ckpt'
    torch.save({'weight': TENSORS['plain'], 'hyper_parameters': foreign(),
                'more': [argparse.Namespace(a=1), pathlib.PurePosixPath('/x/y')], 'end': 1}, path,
               _use_new_zipfile_serialization=zipped)
    forget('omegaconf', 'omegaconf.dictconfig')
    found = load_torch_file(path)
    assert torch.equal(found['weight'], TENSORS['plain']) and found['end'] == 1
    assert 'omegaconf' not in sys.modules
    config = found['hyper_parameters']['config']
    assert type(config).__name__ == 'DictConfig' and not isinstance(config, dict)
    assert not vars(config)
    assert not isinstance(found['more'][0], argparse.Namespace)
    assert not isinstance(found['more'][1], pathlib.PurePath)


def test_checkpoint_of_mmengine(tmp_path) -> None:
    """Holds the history of the losses, whose statistics it names as ``getattr(class, name)``."""
    hub = MessageHub('test_torch_files')
    hub.update_scalar('train/loss', 1.5)
    torch.save(dict(state_dict=TENSORS, message_hub=hub.state_dict()), tmp_path / 'iter_1.pth')
    assert b'getattr' in (tmp_path / 'iter_1.pth').read_bytes()
    found = load_torch_file(tmp_path / 'iter_1.pth')
    assert torch.equal(found['state_dict']['plain'], TENSORS['plain'])
    history = found['message_hub']['log_scalars']['train/loss']
    assert not isinstance(history, HistoryBuffer) and not vars(history)


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('wrap', [
    lambda attack, settings: attack,
    lambda attack, settings: dict(state_dict=TENSORS, hyper_parameters=attack),
    lambda attack, settings: dict(state_dict=TENSORS, hyper_parameters=dict(settings, a=attack)),
])
def test_runs_nothing(tmp_path, foreign, wrap, zipped) -> None:
    made, path = tmp_path / 'made', tmp_path / 'a.ckpt'
    torch.save(wrap(Attack(made), foreign()), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafePickleError,
                       match=r'a\.ckpt: .* asks for (posix|nt|os)\.mkdir.*nothing of the file'):
        load_torch_file(path)
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()  # the attack is a real one


@pytest.mark.parametrize('value', [
    print, eval, setattr, torch.load, torch.hub.load, np.load, os.path.join, torch.nn.Linear(1, 1),
    torch.nn.Module, torch.jit.load, torch._utils._import_dotted_name,
])
def test_refuses_other_globals(tmp_path, value) -> None:
    torch.save(value, tmp_path / 'a.pth')
    with pytest.raises(UnsafePickleError, match='Only tensors'):
        load_torch_file(tmp_path / 'a.pth')


def test_a_pickle_cannot_change_the_functions_it_may_call(tmp_path) -> None:
    """BUILD sets attributes of any object, also of a function that was looked up."""
    function = torch._utils._rebuild_tensor_v2
    before = function.__defaults__
    # Protocol 2, the function, a pair of None and attributes, BUILD.
    tampering = (b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n'
                 b'N}X\x0c\x00\x00\x00__defaults__)s\x86b.')
    head = [pickle.dumps(part, 2) for part in (
        torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION,
        dict(protocol_version=1001, little_endian=True, type_sizes={}))]
    (tmp_path / 'a.pth').write_bytes(b''.join([*head, tampering, pickle.dumps([], 2)]))
    try:
        load_torch_file(tmp_path / 'a.pth')
        assert function.__defaults__ == before
        torch.load(tmp_path / 'a.pth', weights_only=False)
        assert function.__defaults__ == ()  # the ordinary way it is changed
    finally:
        function.__defaults__ = before


@pytest.mark.filterwarnings('ignore')
def test_torchscript(tmp_path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Identity()), str(tmp_path / 'a.pt'))
    with pytest.raises(ValueError, match=r'a\.pt: .*TorchScript'):
        load_torch_file(tmp_path / 'a.pt')


@pytest.mark.parametrize('zipped', [True, False])
def test_damaged(tmp_path, zipped) -> None:
    path = tmp_path / 'a.pth'
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for broken in (b'', content[:3], content[:len(content) // 2], b'not a checkpoint'):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r'a\.pth: not a whole torch file'):
            load_torch_file(path)
    with pytest.raises(FileNotFoundError):
        load_torch_file(tmp_path / 'absent.pth')
