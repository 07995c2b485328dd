from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmseg.registry import MODELS
from safetensors.torch import save_file

from mmseg_dhr.models import ViTUSS
from mmseg_dhr.models.uss import CAUSEMLP, CAUSETR
from mmseg_dhr.utils import UserError

NAME = 'test_vit'  # timm's smallest: 6 blocks of 64 channels, patches of 16 pixels


def by_hand():
    spec = importlib.util.spec_from_file_location(
        'uss_heads_by_hand', Path(__file__).with_name('test_uss_heads.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BY_HAND = by_hand()


def random_state(shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) * .2 for key, shape in shapes.items()}


def shapes_of(keys, dim=90):
    """Shapes of the official heads on 64 channels, 9 queries."""
    replaced = {5: dim, 12: 64, 36: 192, 6: 9}
    return {key: tuple(replaced.get(side, side) for side in shape)
            for key, shape in keys.items()}


@pytest.fixture(scope='module')
def transformer():
    torch.manual_seed(1)
    return {key: torch.randn_like(value) * .2 + .1
            for key, value in timm.create_model(NAME, num_classes=0).state_dict().items()}


@pytest.fixture
def backbone(transformer, tmp_path):
    save_file(transformer, tmp_path / 'vit.safetensors')
    return dict(model_name=NAME, checkpoint=str(tmp_path / 'vit.safetensors'))


@pytest.fixture(scope='module')
def tr_head():
    return random_state(shapes_of(BY_HAND.TR_KEYS), 2)


@pytest.fixture(scope='module')
def mlp_head():
    return random_state(shapes_of(BY_HAND.MLP_KEYS), 3)


def official(head):
    """segment_*.pth: student, average and projection side by side."""
    return {**{f'head.{key}': value + 1 for key, value in head.items()},
            **{f'head_ema.{key}': value for key, value in head.items()},
            'projection_head.0.weight': torch.zeros(2, 2),
            'projection_head_ema.0.weight': torch.zeros(2, 2), 'linear.weight': torch.zeros(2, 2)}


def features_by_hand(transformer, images):
    vit = ViTUSS(NAME)
    vit.vit.load_state_dict(transformer)
    return vit(images)[0]


def tr_by_hand(transformer, head, images, heads=4):
    codes = []
    for image in features_by_hand(transformer, images):
        size = image.shape[1:]
        queries = BY_HAND.resized_by_hand(head['query_pos'], size[0] * size[1])
        tokens = BY_HAND.decoder_by_hand(head, heads, queries, image.flatten(1).t())
        codes.append(BY_HAND.mlp_by_hand(head, tokens, 'f1', 'f2').t().unflatten(1, size))
    return torch.stack(codes)


def mlp_by_hand(transformer, head, images):
    tokens = features_by_hand(transformer, images).permute(0, 2, 3, 1)
    return BY_HAND.mlp_by_hand(head, tokens, 'f1', 'f2').permute(0, 3, 1, 2)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.fixture
def written(tmp_path):
    def write(content, name='segment_tr.pth'):
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)
    return write


@pytest.mark.parametrize('size', [(48, 48), (32, 80), (20, 90)])
def test_transformer(size, transformer, tr_head, backbone, written) -> None:
    encoder = CAUSETR(backbone, written(official(tr_head)), num_heads=4)
    images = torch.rand(2, 3, *size) * 255
    code, = encoder(images)
    assert code.shape == (2, 90, round(size[0] / 16), round(size[1] / 16))
    close(code, tr_by_hand(transformer, tr_head, images))
    assert encoder.out_channels == 90 and encoder.codebook is None


@pytest.mark.parametrize('size', [(48, 48), (20, 90)])
def test_mlp(size, transformer, mlp_head, backbone, written) -> None:
    encoder = CAUSEMLP(backbone, written(official(mlp_head)))
    images = torch.rand(2, 3, *size) * 255
    close(encoder(images)[0], mlp_by_hand(transformer, mlp_head, images))


def test_dhr_release(transformer, tr_head, backbone, written) -> None:
    codebook = torch.randn(2048, 64)
    encoder = CAUSETR(backbone, written(dict(decoder=tr_head, codebook=codebook), 'dhr.pt'),
                      num_heads=4)
    images = torch.rand(1, 3, 32, 48) * 255
    close(encoder(images)[0], tr_by_hand(transformer, tr_head, images))
    assert torch.equal(encoder.codebook, codebook)


@pytest.mark.parametrize('wrap', [
    lambda head: head, lambda head: dict(state_dict=official(head), meta=dict(iter=1)),
    lambda head: {'f1.0.weight' if key == 'f1.weight' else 'f1.0.bias' if key == 'f1.bias' else
                  key: value for key, value in head.items()},
])
def test_other_layouts(wrap, transformer, mlp_head, backbone, written) -> None:
    encoder = CAUSEMLP(backbone, written(wrap(mlp_head)))
    images = torch.rand(1, 3, 32, 48) * 255
    close(encoder(images)[0], mlp_by_hand(transformer, mlp_head, images))


class TestCodebook:

    @pytest.mark.parametrize('name', ['modular.npy', 'cluster_tr.pth', 'bare.pth'])
    def test_of_its_own_file(self, name, mlp_head, backbone, written, tmp_path) -> None:
        codebook = torch.randn(2048, 64)
        if name == 'modular.npy':
            np.save(tmp_path / name, codebook.numpy())
        else:
            written(dict(codebook=codebook, other=1) if 'tr' in name else codebook, name)
        encoder = CAUSEMLP(backbone, written(official(mlp_head)), codebook=str(tmp_path / name))
        encoder.init_weights()
        assert torch.equal(encoder.codebook, codebook)
        assert 'codebook' in dict(encoder.named_buffers())
        assert 'codebook' not in encoder.state_dict()

    @pytest.mark.parametrize(('content', 'message'), [
        (torch.ones(2048, 32), r'a codebook of 64 columns.*found \(2048, 32\)'),
        (torch.ones(2048), r'to be a matrix, but found torch\.Size\(\[2048\]\)'),
        (dict(weights=1), 'unknown layout. Expected `codebook`; found the keys: weights'),
        (None, 'to be a matrix, but found NoneType'),
    ])
    def test_refused(self, content, message, mlp_head, backbone, written) -> None:
        encoder = CAUSEMLP(backbone, written(official(mlp_head)),
                           codebook=written(content, 'book.pth'))
        with pytest.raises(UserError, match=rf'book\.pth: .*{message}'):
            encoder.init_weights()

    def test_missing(self, mlp_head, backbone, written) -> None:
        encoder = CAUSEMLP(backbone, written(official(mlp_head)), codebook='absent.npy')
        with pytest.raises(UserError, match=r'absent\.npy.*The features do not need it'):
            encoder.init_weights()


class TestErrors:

    def test_file_of_the_other_kind(self, tr_head, mlp_head, backbone, written) -> None:
        with pytest.raises(UserError, match=r"transformer head.*type='CAUSETR'.*of CAUSEMLP"):
            CAUSEMLP(backbone, written(official(tr_head))).init_weights()
        with pytest.raises(UserError, match=r"MLP head.*type='CAUSEMLP'.*of CAUSETR"):
            CAUSETR(backbone, written(official(mlp_head)), num_heads=4).init_weights()

    def test_unknown_layout(self, backbone, written) -> None:
        with pytest.raises(UserError, match=r'a\.pth: unknown layout\. Expected `head_ema.*'
                           r'found the keys: head\.f1\.weight, codebook\.'):
            CAUSEMLP(backbone, written({'head.f1.weight': 1, 'codebook': 1},
                                       'a.pth')).init_weights()

    def test_without_transformer(self, mlp_head, written) -> None:
        with pytest.raises(UserError, match=r'holds the head alone.*CAUSEMLP\(backbone='):
            CAUSEMLP(dict(model_name=NAME), written(official(mlp_head))).init_weights()

    def test_of_another_width(self, tr_head, backbone, written) -> None:
        head = dict(tr_head, query_pos=torch.zeros(9, 32))
        with pytest.raises(UserError, match=r'does not fit the head of CAUSETR on features of 64 '
                           r'channels: size mismatch for query_pos.*\[9, 32\]'):
            CAUSETR(backbone, written(official(head)), num_heads=4).init_weights()

    def test_heads_that_do_not_share_out(self) -> None:
        with pytest.raises(ValueError, match='multiple of num_heads = 12, but got 64'):
            CAUSETR(dict(model_name=NAME))


@pytest.mark.parametrize(('model', 'queries'), [
    ('vit_small_patch8_224.dino', 1600), ('vit_small_patch16_224.dino', 400),
    ('vit_small_patch14_dinov2', 529),
])
def test_queries_of_the_training_size(model, queries) -> None:
    with torch.device('meta'):  # sizes alone
        encoder = CAUSETR(dict(model_name=model))
    assert encoder.head.query_pos.shape == (queries, 384)
    assert encoder.out_channels == 90 and encoder.head.tr.self_attn.num_heads == 12


def test_no_dropout_while_a_segmentor_trains(tr_head, backbone, written, tiny_model,
                                             mmseg_modules) -> None:
    model = MODELS.build(tiny_model(uss_encoder=dict(
        type='CAUSETR', backbone=backbone, checkpoint=written(official(tr_head)), num_heads=4)))
    model.init_weights()
    model.train()
    images = torch.rand(1, 3, 48, 48) * 255
    first = model._uss_features(images, [{}])
    assert torch.equal(first, model._uss_features(images, [{}]))
    assert model.uss_encoder.train()(images)[0].equal(first)
    assert not any(key.startswith('uss_encoder') for key in model.state_dict())
