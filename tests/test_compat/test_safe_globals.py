"""Tests of reading mmengine's checkpoints with torch's check switched on."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner, load_checkpoint
from torch.torch_version import TorchVersion
from torch.utils.data import DataLoader

from mmseg_dhr.compat import allow_mmengine_checkpoints

pytestmark = pytest.mark.skipif(
    torch.__version__ < (2, 6), reason='torch checks pickles by default since 2.6'
)


class _Line(BaseModel):
    """Fits y = w x; the smallest model a Runner can train."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, y: torch.Tensor, mode: str) -> dict[str, torch.Tensor]:
        assert mode == 'loss'
        return {'loss': (self.weight * x - y).square().mean()}


class _Call:
    """Pickles as the call of a function, which is how a pickle runs code."""

    def __init__(self, function: Callable[..., Any], *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.function, self.args


def _runner(work_dir: Path, iterations: int, resume: bool = False) -> Runner:
    data = [{'x': torch.tensor([1.0]), 'y': torch.tensor([2.0])}] * 4
    return Runner(
        model=_Line(),
        work_dir=str(work_dir),
        train_dataloader=DataLoader(data, batch_size=2),
        train_cfg={'type': 'IterBasedTrainLoop', 'max_iters': iterations},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}},
        param_scheduler={'type': 'PolyLR', 'begin': 0, 'end': 8, 'by_epoch': False},
        default_hooks={
            'logger': {'type': 'LoggerHook', 'interval': 1},
            'checkpoint': {'type': 'CheckpointHook', 'by_epoch': False, 'interval': 2},
        },
        env_cfg={'mp_cfg': {'mp_start_method': 'fork', 'opencv_num_threads': 1}},
        default_scope='mmengine',
        log_level='WARNING',
        resume=resume,
        experiment_name=f'{work_dir.name}_{iterations}',
    )


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    """Folder of a run that was stopped after four iterations."""
    path = tmp_path / 'stopped'
    _runner(path, iterations=4).train()
    return path


@pytest.fixture
def default_allow_list() -> Iterator[None]:
    """Takes the package's allow-list away for one test."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.add_safe_globals(allowed)


def _save_and_load(path: Path, value: object) -> Any:
    torch.save({'state_dict': {}, 'meta': value}, path)
    return torch.load(path, weights_only=True)['meta']


class TestRunnerCheckpoint:
    def test_history_survives(self, work_dir: Path) -> None:
        checkpoint = torch.load(work_dir / 'iter_4.pth', weights_only=True)
        loss = checkpoint['message_hub']['log_scalars']['train/loss']
        assert isinstance(loss, HistoryBuffer)
        # (2 - w)^2 is 4 at the start and falls.
        assert loss.max() == 4.0
        assert loss.current() == loss.min() < 4.0
        assert len(loss.data[0]) == 4

    @pytest.mark.usefixtures('default_allow_list')
    def test_is_refused_without_the_allow_list(self, work_dir: Path) -> None:
        with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer|getattr'):
            torch.load(work_dir / 'iter_4.pth')

    def test_resumed_run_equals_uninterrupted_run(self, work_dir: Path, tmp_path: Path) -> None:
        resumed = _runner(work_dir, iterations=6, resume=True)
        resumed.train()
        whole = _runner(tmp_path, iterations=6)
        whole.train()
        assert resumed.iter == 6
        assert torch.equal(resumed.model.weight, whole.model.weight)
        assert resumed.optim_wrapper.get_lr() == whole.optim_wrapper.get_lr()

    @pytest.mark.parametrize('module', ['numpy.core.multiarray', 'numpy._core.multiarray'])
    def test_reads_files_of_either_numpy(
        self, work_dir: Path, tmp_path: Path, module: str
    ) -> None:
        renamed = tmp_path / 'renamed.pth'
        _rename_in_pickle(work_dir / 'iter_4.pth', renamed, module.encode())
        loss = torch.load(renamed)['message_hub']['log_scalars']['train/loss']
        assert loss.max() == 4.0


def _rename_in_pickle(source: Path, target: Path, module: bytes) -> None:
    """Writes a checkpoint as another version of numpy would have."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, 'w') as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith('data.pkl'):
                data = data.replace(b'cnumpy.core.multiarray\n', b'cnumpy._core.multiarray\n')
                assert b'cnumpy._core.multiarray\n' in data
                data = data.replace(b'cnumpy._core.multiarray\n', b'c' + module + b'\n')
            new.writestr(name, data)


class TestNumbers:
    @pytest.mark.parametrize('dtype', ['?', 'u1', 'i4', 'i8', 'f2', 'f4', 'f8'])
    def test_arrays_and_scalars(self, tmp_path: Path, dtype: str) -> None:
        array = np.array([[0, 1], [1, 0]], dtype=dtype)
        loaded = _save_and_load(tmp_path / 'x.pth', {'array': array, 'scalar': array[0, 1]})
        assert loaded['array'].dtype == array.dtype
        assert np.array_equal(loaded['array'], array)
        assert type(loaded['scalar']) is type(array[0, 1])
        assert loaded['scalar'] == 1

    def test_objects_in_arrays_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(pickle.UnpicklingError):
            _save_and_load(tmp_path / 'x.pth', np.array([{}, None], dtype=object))


class TestHostileCheckpoint:
    def test_code_is_not_run(self, tmp_path: Path) -> None:
        marker = tmp_path / 'code_was_run'
        path = tmp_path / 'hostile.pth'
        attack = _Call(exec, f"open({str(marker)!r}, 'w').close()")
        torch.save({'state_dict': {}, 'meta': attack}, path)
        with pytest.raises(pickle.UnpicklingError):
            load_checkpoint(_Line(), str(path))
        assert not marker.exists()

    def test_the_attack_would_work_without_the_check(self, tmp_path: Path) -> None:
        # Shows that the test above tests something.
        marker = tmp_path / 'code_was_run'
        pickle.loads(pickle.dumps(_Call(exec, f"open({str(marker)!r}, 'w').close()")))
        assert marker.exists()

    @pytest.mark.parametrize(
        ('owner', 'name'),
        [(HistoryBuffer, '__init__'), (HistoryBuffer, '__class__'), (np.ndarray, 'mean')],
    )
    def test_attributes_cannot_be_looked_up(
        self, tmp_path: Path, owner: type, name: str
    ) -> None:
        with pytest.raises(pickle.UnpicklingError, match=name):
            _save_and_load(tmp_path / 'x.pth', _Call(getattr, owner, name))

    def test_statistics_can_be_looked_up(self, tmp_path: Path) -> None:
        loaded = _save_and_load(tmp_path / 'x.pth', _Call(getattr, HistoryBuffer, 'mean'))
        assert loaded is HistoryBuffer.mean


def test_nothing_to_do_before_torch_2_6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, '__version__', TorchVersion('2.5.1'))
    monkeypatch.delattr(torch.serialization, 'add_safe_globals')
    assert allow_mmengine_checkpoints() is False
