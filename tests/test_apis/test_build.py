from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from mmseg_dhr.apis import build
from mmseg_dhr.apis.build import build_dataset, build_model, default_device, propagation_of
from mmseg_dhr.formats import Manifest
from mmseg_dhr.utils import UserError


def test_model_with_its_weights(tiny_model, tmp_path) -> None:
    config = Config(dict(model=tiny_model(norm='SyncBN')))
    torch.manual_seed(0)
    trained = build_model(config, None, torch.device('cpu'))
    torch.save(dict(state_dict=trained.state_dict(), meta={}), tmp_path / 'weights.pth')
    torch.manual_seed(1)
    model = build_model(config, tmp_path / 'weights.pth')
    assert not model.training
    assert next(model.parameters()).device.type == default_device().type
    for name, value in model.cpu().state_dict().items():
        assert torch.equal(value, trained.state_dict()[name])
    assert model(torch.zeros(1, 3, 32, 32), mode='tensor').isfinite().all()  # no SyncBN left


def test_a_checkpoint_is_read_once(tiny_model, tmp_path, monkeypatch) -> None:
    """By the reader with an allow-list, and not again by mmengine."""
    config = Config(dict(model=tiny_model()))
    model = build_model(config, None, torch.device('cpu'))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'weights.pth')
    read = []
    monkeypatch.setattr(torch, 'load', lambda *args, load=torch.load, **options:
                        read.append(options) or load(*args, **options))
    build_model(config, tmp_path / 'weights.pth')
    assert [options['pickle_module'].__name__ for options in read] == ['restricted_pickle']


def test_missing_checkpoint(tiny_model, tmp_path) -> None:
    with pytest.raises(UserError, match=r'gone\.pth'):
        build_model(Config(dict(model=tiny_model())), tmp_path / 'gone.pth')


def test_checkpoint_of_other_classes(tiny_model, tmp_path) -> None:
    model = build_model(Config(dict(model=tiny_model(num_classes=5))), None, torch.device('cpu'))
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'weights.pth')
    with pytest.raises(UserError, match=r'(?s)number of classes.*\(5, .*\(9, '):
        build_model(Config(dict(model=tiny_model())), tmp_path / 'weights.pth')


def test_another_model(tiny_model) -> None:
    with pytest.raises(UserError, match='DualEncoderSegmentor, but found EncoderDecoder'):
        build_model(Config(dict(model=tiny_model().segmentor)), None)


def test_dataset(tagged_scenes) -> None:
    config = Config(dict(pseudo_label_dataset=tagged_scenes()))
    assert len(build_dataset(config)) == 6
    with pytest.raises(UserError, match='no `train_set`'):
        build_dataset(config, 'train_set')


def test_propagation(tiny_model) -> None:
    config = Config(dict(model=tiny_model()))
    assert propagation_of(config.model).type == 'DHRPropagation'
    model = build_model(config, None)
    assert propagation_of(model) is model.propagation
    for other in (tiny_model(propagation=None), tiny_model().segmentor):
        with pytest.raises(UserError, match='`model.propagation`'):
            propagation_of(other)


def test_a_missing_base_is_named(tagged_scenes, tmp_path, monkeypatch) -> None:
    """MMSEG_DHR_BASE forgotten after the training; a folder that nobody has filled."""
    base = tmp_path / 'base_masks'

    def warnings(mask_dir, expects_base=True) -> str:
        lines: list[str] = []
        monkeypatch.setattr(build, 'print_log', lambda line, **_: lines.append(line))
        pipeline = [dict(type='LoadImageFromFile'),
                    dict(type='LoadPseudoMask', num_classes=9, mask_dir=mask_dir)]
        build_dataset(Config(dict(work_dir=str(tmp_path),
                                  pseudo_label_dataset=tagged_scenes(pipeline))),
                      expects_base=expects_base)
        return ''.join(lines)

    assert warnings(None) == ''
    base.mkdir()
    assert 'base_masks is to hold M_base, but there is no mask' in warnings(str(base))
    assert warnings(str(base), expects_base=False) == ''
    (base / 'a.png').touch()
    Manifest({}).save(base)
    with pytest.raises(UserError, match='base_masks: this M_base is unfinished'):
        warnings(str(base))
    Manifest({}, complete=True, count=1).save(base)
    assert warnings(str(base)) == ''
    assert 'base_masks holds M_base, but the config loads none' in warnings(None)
