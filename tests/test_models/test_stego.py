from __future__ import annotations

import os
import sys
import types

import pytest
import timm
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from safetensors.torch import save_file

from mmseg_dhr.formats import UnsafePickleError
from mmseg_dhr.models import ViTUSS
from mmseg_dhr.models.uss import STEGO, STEGOHead, headed
from mmseg_dhr.utils import UserError

NAME = 'test_vit'  # timm's smallest: 6 blocks of 64 channels, patches of 16 pixels


@pytest.fixture(scope='module')
def transformer():
    torch.manual_seed(1)
    return {key: torch.randn_like(value) * .2 + .1
            for key, value in timm.create_model(NAME, num_classes=0).state_dict().items()}


@pytest.fixture(scope='module')
def head():
    torch.manual_seed(2)
    shapes = {'cluster1.0.weight': (90, 64, 1, 1), 'cluster1.0.bias': (90, ),
              'cluster2.0.weight': (64, 64, 1, 1), 'cluster2.0.bias': (64, ),
              'cluster2.2.weight': (90, 64, 1, 1), 'cluster2.2.bias': (90, )}
    return {key: torch.randn(shape) * .2 for key, shape in shapes.items()}


@pytest.fixture
def backbone_file(transformer, tmp_path) -> str:
    save_file(transformer, tmp_path / 'vit.safetensors')
    return str(tmp_path / 'vit.safetensors')


@pytest.fixture
def lightning(transformer, head, tmp_path, monkeypatch):
    """Writes a file with the keys of an official checkpoint; `extra` goes to its settings."""
    def write(extra=None):
        library = types.ModuleType('omegaconf')

        class DictConfig:

            def __init__(self):
                self._content = dict(model_type='vit_base', dim=90, extra=extra)

        DictConfig.__module__, DictConfig.__qualname__ = 'omegaconf', 'DictConfig'
        library.DictConfig = DictConfig
        with monkeypatch.context() as context:
            context.setitem(sys.modules, 'omegaconf', library)
            path = tmp_path / 'cocostuff27_vit_base_5.ckpt'
            torch.save({
                'epoch': 0, 'global_step': 7000, 'pytorch-lightning_version': '1.5.9',
                'state_dict': {**{f'net.model.{key}': value for key, value in transformer.items()},
                               **{f'net.{key}': value for key, value in head.items()},
                               'train_cluster_probe.clusters': torch.zeros(27, 90),
                               'linear_probe.weight': torch.zeros(27, 90, 1, 1)},
                'callbacks': {}, 'hyper_parameters': {'n_classes': 27, 'cfg': DictConfig()},
            }, path)
        sys.modules.pop('omegaconf', None)
        return str(path)
    return write


def code_by_hand(transformer, head, images, flip=True):
    """Matrix products on the transformer's features, averaged over mirror images."""
    vit = ViTUSS(NAME)
    vit.vit.load_state_dict(transformer)

    def of(x):
        tokens = vit(x)[0].permute(0, 2, 3, 1)
        weight = {key: value.flatten(1) if value.ndim == 4 else value
                  for key, value in head.items()}
        linear = tokens @ weight['cluster1.0.weight'].t() + weight['cluster1.0.bias']
        hidden = (tokens @ weight['cluster2.0.weight'].t() + weight['cluster2.0.bias']).clamp(min=0)
        return (linear + hidden @ weight['cluster2.2.weight'].t()
                + weight['cluster2.2.bias']).permute(0, 3, 1, 2)

    return (of(images) + of(images.flip(3)).flip(3)) / 2 if flip else of(images)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('size', [(32, 48), (50, 37)])
@pytest.mark.parametrize('flip', [True, False])
def test_official_checkpoint(lightning, transformer, head, size, flip) -> None:
    encoder = STEGO(dict(model_name=NAME), lightning(), flip=flip)
    images = torch.rand(2, 3, *size) * 255
    code, = encoder(images)
    assert code.shape == (2, 90, round(size[0] / 16), round(size[1] / 16))
    close(code, code_by_hand(transformer, head, images, flip))
    assert 'omegaconf' not in sys.modules


def test_malicious_checkpoint(lightning, tmp_path) -> None:
    class Attack:

        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'made'), )

    encoder = STEGO(dict(model_name=NAME), lightning(extra=Attack()))
    with pytest.raises(UnsafePickleError, match='mkdir'):
        encoder(torch.zeros(1, 3, 16, 16))
    assert not (tmp_path / 'made').exists()


def layouts(head):
    parts = {part: {key[len(part) + 1:]: value for key, value in head.items()
                    if key.startswith(part)} for part in ('cluster1', 'cluster2')}
    return {'dhr.pt': (parts, "DHR's release of STEGO"),
            'head.pth': (head, 'the state dict of a STEGO head'),
            'head_half.pth': ({key: value.half() for key, value in head.items()},
                              'the state dict of a STEGO head'),
            'iter_1.pth': (dict(state_dict={
                **{f'head.{key}': value for key, value in head.items()},
                'cluster_probe.centres': torch.zeros(2, 2)}, meta=dict(iter=1)), 'a training here')}


@pytest.mark.parametrize('name', ['dhr.pt', 'head.pth', 'head_half.pth', 'iter_1.pth'])
def test_other_layouts(name, transformer, head, backbone_file, tmp_path,
                       monkeypatch) -> None:
    content, layout = layouts(head)[name]
    said = []
    monkeypatch.setattr(headed, 'print_log', lambda text, logger: said.append(text))
    torch.save(content, tmp_path / name)
    encoder = STEGO(dict(model_name=NAME, checkpoint=backbone_file), str(tmp_path / name))
    images = torch.rand(1, 3, 32, 32) * 255
    close(encoder(images)[0], code_by_hand(transformer, head, images))
    assert said == [f'STEGO: {tmp_path / name} has the layout of {layout}']


def test_safetensors_of_a_head(transformer, head, backbone_file, tmp_path) -> None:
    save_file(head, tmp_path / 'head.safetensors')
    encoder = STEGO(dict(model_name=NAME, checkpoint=backbone_file),
                    str(tmp_path / 'head.safetensors'))
    images = torch.rand(1, 3, 32, 32) * 255
    close(encoder(images)[0], code_by_hand(transformer, head, images))


def test_own_backbone_file_goes_first(lightning, transformer, tmp_path) -> None:
    other = {key: value + .1 for key, value in transformer.items()}
    save_file(other, tmp_path / 'other.safetensors')
    encoder = STEGO(dict(model_name=NAME, checkpoint=str(tmp_path / 'other.safetensors')),
                    lightning())
    encoder.init_weights()
    assert torch.equal(encoder.backbone.vit.norm.bias, other['norm.bias'])


class TestWidth:

    def test_is_the_file_s(self, lightning) -> None:
        encoder = STEGO(dict(model_name=NAME), lightning())
        parameters = set(encoder.parameters())
        assert encoder.out_channels == 90
        assert parameters == set(encoder.parameters())  # an optimizer may hold them
        assert encoder.head.dim == encoder.head.cluster1[0].out_channels == 90
        assert not any(p.requires_grad for p in encoder.parameters())

    def test_without_file(self) -> None:
        assert STEGO(dict(model_name=NAME)).out_channels == 70
        assert STEGO(dict(model_name=NAME), dim=100).out_channels == 100

    def test_given_needs_no_file_until_it_is_read(self, tmp_path) -> None:
        encoder = STEGO(dict(model_name=NAME), str(tmp_path / 'absent.ckpt'), dim=90)
        assert encoder.out_channels == 90
        with pytest.raises(UserError, match=r'expected the file .*absent\.ckpt.*docs/en/uss\.md'):
            encoder.init_weights()

    def test_another_than_the_file_s(self, lightning) -> None:
        encoder = STEGO(dict(model_name=NAME), lightning(), dim=70)
        with pytest.raises(UserError, match=r'\.ckpt: its code has 90 channels.*dim=70.*dim=90'):
            encoder.init_weights()


class TestErrors:

    @pytest.mark.parametrize(('content', 'found'), [
        ({'model': {}, 'epoch': 1}, 'model, epoch'),
        ({'state_dict': {f'backbone.{i}': torch.ones(1) for i in range(9)}},
         r'backbone\.0, .*backbone\.7, \.\.\.'),
        ({'cluster1': {}}, 'cluster1'),
        ({0: 1, 'decoder': {}}, '0, decoder'),
    ])
    def test_unknown_layout(self, content, found, tmp_path) -> None:
        torch.save(content, tmp_path / 'a.pt')
        with pytest.raises(UserError, match=rf'a\.pt: unknown layout\. Expected .*net\.cluster1.*'
                           rf"DHR's release.*found the keys: {found}\.$"):
            STEGO(dict(model_name=NAME), str(tmp_path / 'a.pt')).init_weights()

    def test_no_dict(self, tmp_path) -> None:
        torch.save([1], tmp_path / 'a.pt')
        with pytest.raises(UserError, match=r'a\.pt: expected a state dict, but found list'):
            STEGO(dict(model_name=NAME), str(tmp_path / 'a.pt')).init_weights()

    def test_head_alone_without_transformer(self, head, tmp_path) -> None:
        torch.save(head, tmp_path / 'a.pt')
        with pytest.raises(UserError, match=r'a\.pt .*holds the head alone.*STEGO\(backbone='):
            STEGO(dict(model_name=NAME), str(tmp_path / 'a.pt')).init_weights()

    @pytest.mark.parametrize(('change', 'message'), [
        (lambda head: head.pop('cluster2.0.bias'), r'Missing key.*cluster2\.0\.bias'),
        (lambda head: head.update({'cluster2.0.bias': torch.ones(3)}), r'size mismatch.*cluster2'),
    ])
    def test_of_another_width(self, head, backbone_file, tmp_path, change, message) -> None:
        changed = dict(head)
        change(changed)
        torch.save(changed, tmp_path / 'a.pt')
        encoder = STEGO(dict(model_name=NAME, checkpoint=backbone_file), str(tmp_path / 'a.pt'))
        with pytest.raises(UserError, match=rf'a\.pt does not fit the head of STEGO on features of '
                           rf'64 channels: {message}'):
            encoder.init_weights()


def test_head_that_was_trained_here_loads(tmp_path) -> None:
    trained = STEGOHead(96, 12)
    torch.save(trained.state_dict(), tmp_path / 'a.pth')
    encoder = STEGO(dict(type='ColorTextureUSS'), str(tmp_path / 'a.pth'), flip=False)
    images = torch.randint(0, 256, (1, 3, 32, 32))
    assert torch.equal(encoder(images)[0], trained(encoder.backbone(images)[0]))


class TestInMMSegmentation:

    def test_backbone_of_any_segmentor(self, lightning, mmseg_modules) -> None:
        model = MODELS.build(dict(
            type='EncoderDecoder', backbone=dict(type='STEGO', backbone=dict(model_name=NAME),
                                                 checkpoint=lightning()),
            data_preprocessor=dict(type='SegDataPreProcessor', bgr_to_rgb=True),
            decode_head=dict(type='FCNHead', in_channels=90, channels=8, num_convs=1, in_index=0,
                             num_classes=2, norm_cfg=dict(type='BN'))))
        model.init_weights()
        model.train()
        assert not any(module.training for module in model.backbone.modules())
        logits = model(torch.rand(2, 3, 32, 48) * 255)
        assert logits.shape == (2, 2, 2, 3)
        logits.sum().backward()
        assert all(p.grad is None for p in model.backbone.parameters())

    def test_uss_encoder(self, lightning, tiny_model, mmseg_modules) -> None:
        model = MODELS.build(tiny_model(uss_encoder=dict(
            type='STEGO', backbone=dict(model_name=NAME), checkpoint=lightning())))
        model.init_weights()
        features = model._uss_features(torch.rand(1, 3, 32, 48) * 255, [{}])
        assert features.shape == (1, 90, 2, 3)
        assert not any(key.startswith('uss_encoder') for key in model.state_dict())


def test_settings_of_the_cache() -> None:
    encoder = STEGO(dict(model_name=NAME, pos_embed='dino'), flip=False)
    assert encoder.feature_settings() == dict(
        flip=False, backbone='ViTUSS', block=5, norm=True, scale=1.0, pos_embed='dino')


def test_bfloat16_autocast(lightning, transformer, head) -> None:
    encoder = STEGO(dict(model_name=NAME), lightning())
    images = torch.rand(1, 3, 32, 32) * 255
    with torch.autocast('cpu', torch.bfloat16):
        code, = encoder(images)
    expected = code_by_hand(transformer, head, images)
    assert F.cosine_similarity(code.float(), expected).min() > .98
