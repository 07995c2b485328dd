from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from mmseg_dhr.formats import read_features, write_features


def test_round_trip(tmp_path):
    features = torch.randn(6, 5, 4).permute(2, 0, 1)
    write_features(tmp_path / 'a.safetensors', features)
    found = read_features(tmp_path / 'a.safetensors')
    assert found.dtype == torch.float16
    assert torch.equal(found, features.half())
    assert [path.name for path in tmp_path.iterdir()] == ['a.safetensors']


@pytest.mark.parametrize('features, message', [
    (torch.zeros(2, 2), 'shape'), (torch.full((1, 1, 1), 1e6), 'finite'),
    (torch.full((1, 1, 1), float('nan')), 'finite')])
def test_rejects_bad_features(tmp_path, features, message):
    with pytest.raises(ValueError, match=message):
        write_features(tmp_path / 'a.safetensors', features)
    assert not list(tmp_path.iterdir())


def test_rejects_other_files(tmp_path):
    path = tmp_path / 'a.safetensors'
    save_file({'other': torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="`features`.*'other'"):
        read_features(path)
    write_features(path, torch.zeros(2, 3, 4))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match='not a whole safetensors file'):
        read_features(path)
    with pytest.raises(FileNotFoundError):
        read_features(tmp_path / 'absent.safetensors')
