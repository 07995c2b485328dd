from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from safetensors.torch import load_file, save_file

from mmseg_dhr.models import ViTUSS
from mmseg_dhr.utils import UserError

NAME = 'test_vit'  # timm's smallest: 6 blocks of 64 channels, patches of 16 pixels


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """Random weights of the transformer in which nothing keeps its default."""
    torch.manual_seed(0)
    state = timm.create_model(NAME, num_classes=0).state_dict()
    return {k: torch.rand_like(v) * .5 + .75 if k.endswith('norm.weight') or 'norm' in k and
            k.endswith('weight') else torch.randn_like(v) * .2 for k, v in state.items()}


@pytest.fixture
def file(weights, tmp_path) -> str:
    path = tmp_path / 'vit.safetensors'
    save_file(weights, path)
    return str(path)


def tokens_by_hand(weights, images, size, blocks=6, norm=True):
    """Normalise, resize, embed, run blocks, drop the class token."""
    vit = timm.create_model(NAME, num_classes=0, img_size=size).eval()
    # The position embedding is that of 160 pixels: interpolated as timm does when it loads.
    vit.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(dict(weights), vit))
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    x = (images.float() - mean) / std
    if x.shape[-2:] != size:
        x = F.interpolate(x, size=size, mode='bicubic', antialias=True)
    with torch.no_grad():
        x = vit.norm_pre(vit._pos_embed(vit.patch_embed(x)))
        for block in vit.blocks[:blocks]:
            x = block(x)
        x = (vit.norm(x) if norm else x)[:, 1:]
    return x.transpose(1, 2).unflatten(2, (size[0] // 16, size[1] // 16))


@pytest.mark.parametrize(('options', 'blocks', 'norm'), [
    ({}, 6, True), (dict(norm=False), 6, False), (dict(out_index=2), 3, True),
    (dict(out_index=-6, norm=False), 1, False),
])
@pytest.mark.parametrize(('image', 'size'), [
    ((160, 160), (160, 160)), ((32, 64), (32, 64)), ((70, 41), (64, 48)),
])
def test_equals_timm_by_hand(weights, file, options, blocks, norm, image, size) -> None:
    images = torch.randint(0, 256, (2, 3, *image), dtype=torch.uint8)
    features, = ViTUSS(NAME, file, **options)(images)
    expected = tokens_by_hand(weights, images, size, blocks, norm)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(('image', 'scale', 'grid'), [
    ((32, 48), 1.0, (2, 3)), ((40, 50), 1.0, (2, 3)), ((41, 57), 1.0, (3, 4)),
    ((5, 200), 1.0, (1, 12)), ((32, 48), 2.0, (4, 6)), ((32, 48), 0.3, (1, 1)),
])
def test_grid_is_the_image_in_patches(image, scale, grid) -> None:
    features, = ViTUSS(NAME, scale=scale)(torch.rand(1, 3, *image) * 255)
    assert features.shape == (1, 64, *grid)
    assert not features.requires_grad


def test_bfloat16(file) -> None:
    images = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
    exact, = ViTUSS(NAME, file)(images)
    encoder = ViTUSS(NAME, file, bfloat16=True)
    for amp in (False, True):
        with torch.autocast('cpu', torch.bfloat16, enabled=amp):
            features, = encoder(images)
        assert features.dtype == torch.float32 and not torch.equal(features, exact)
        assert F.cosine_similarity(features, exact, dim=1).min() > .99


def test_other_normalisation() -> None:
    torch.manual_seed(0)
    encoder = ViTUSS(NAME, mean=(0, 0, 0), std=(255, 255, 255))
    reference = ViTUSS(NAME)
    reference.vit.load_state_dict(encoder.vit.state_dict())
    images = torch.rand(1, 3, 32, 32) * 255
    same = images / 255 * reference.std + reference.mean
    torch.testing.assert_close(encoder(images)[0], reference(same)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('index', [6, -7])
def test_no_such_block(index) -> None:
    with pytest.raises(ValueError, match=rf'out_index in \[-6, 6\) for test_vit, but got {index}'):
        ViTUSS(NAME, out_index=index)


def bicubic_by_hand(values, count, scale):
    """One axis: cubic convolution (a = -0.75) of a row at (i + 0.5) / scale - 0.5."""
    out = np.zeros((count, values.shape[1]))
    for i in range(count):
        x = (i + .5) / scale - .5
        for j in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
            d, a = abs(x - j), -.75
            weight = ((a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else
                      a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a)
            out[i] += weight * values[min(max(j, 0), len(values) - 1)]
    return out


class TestDINOPositions:

    @pytest.mark.parametrize('grid', [(13, 7), (3, 12), (10, 11)])
    def test_by_scale_factor(self, grid) -> None:
        torch.manual_seed(0)
        encoder = ViTUSS(NAME, pos_embed='dino')
        vit = encoder.vit
        torch.nn.init.normal_(vit.pos_embed)
        found = vit._pos_embed(torch.zeros(1, *grid, 64))[0]
        assert torch.equal(found[0], (vit.cls_token + vit.pos_embed[:, :1])[0, 0])
        cells = vit.pos_embed[0, 1:].view(10, 10, 64).double().numpy()
        scales = [(side + .1) / 10 for side in grid]
        rows = bicubic_by_hand(cells.reshape(10, -1), grid[0], scales[0]).reshape(-1, 10, 64)
        expected = np.stack([bicubic_by_hand(row, grid[1], scales[1]) for row in rows])
        np.testing.assert_allclose(found[1:].view(*grid, 64).numpy(), expected, atol=1e-4)

    def test_same_as_timm_where_nothing_is_resized_and_close_elsewhere(self, file) -> None:
        timm_rule, dino_rule = ViTUSS(NAME, file), ViTUSS(NAME, file, pos_embed='dino')
        images = torch.randint(0, 256, (2, 3, 160, 160))
        torch.testing.assert_close(dino_rule(images)[0], timm_rule(images)[0])
        large = torch.randint(0, 256, (1, 3, 240, 320))
        found, other = dino_rule(large)[0], timm_rule(large)[0]
        assert found.shape == other.shape and not torch.allclose(found, other, atol=1e-4)
        assert F.cosine_similarity(found, other).mean() > .99

    def test_is_a_setting_of_the_features(self) -> None:
        plain = dict(block=5, norm=True, scale=1.0)
        assert ViTUSS(NAME).feature_settings() == plain
        assert ViTUSS(NAME, pos_embed='dino').feature_settings() == dict(plain, pos_embed='dino')
        assert ViTUSS(NAME, bfloat16=True).feature_settings() == dict(plain, bfloat16=True)

    def test_copies_are_independent(self) -> None:
        encoder = ViTUSS(NAME, pos_embed='dino')
        copied = copy.deepcopy(encoder)
        torch.nn.init.normal_(copied.vit.pos_embed)
        images = torch.rand(1, 3, 32, 48) * 255
        assert not torch.allclose(copied(images)[0], encoder(images)[0], atol=1e-3)

    @pytest.mark.parametrize(('name', 'rule', 'message'), [
        (NAME, 'official', "'timm' or 'dino', but got 'official'"),
        ('vit_small_patch14_reg4_dinov2', 'dino', 'no register tokens'),
    ])
    def test_refused(self, name, rule, message) -> None:
        with pytest.raises(ValueError, match=message), torch.device('meta'):
            ViTUSS(name, pos_embed=rule)


def test_official_dino_file(tmp_path) -> None:
    """The keys of dino_deitsmall8_pretrain.pth, written out."""
    def linear(name, out, inner):
        return {f'{name}.weight': (out, inner), f'{name}.bias': (out, )}

    def norm(name):
        return {f'{name}.weight': (384, ), f'{name}.bias': (384, )}

    shapes = {'cls_token': (1, 1, 384), 'pos_embed': (1, 785, 384),
              'patch_embed.proj.weight': (384, 3, 8, 8), 'patch_embed.proj.bias': (384, )}
    for i in range(12):
        shapes |= {**norm(f'blocks.{i}.norm1'), **linear(f'blocks.{i}.attn.qkv', 1152, 384),
                   **linear(f'blocks.{i}.attn.proj', 384, 384), **norm(f'blocks.{i}.norm2'),
                   **linear(f'blocks.{i}.mlp.fc1', 1536, 384),
                   **linear(f'blocks.{i}.mlp.fc2', 384, 1536)}
    shapes |= norm('norm')
    state = {key: torch.zeros(shape) for key, shape in shapes.items()}
    path = tmp_path / 'dino_deitsmall8_pretrain.pth'
    torch.save(state, path)
    with torch.device('meta'):  # the weights that timm draws at random take longest
        encoder = ViTUSS('vit_small_patch8_224.dino', str(path))
    encoder.to_empty(device='cpu').init_weights()
    encoder.vit.load_state_dict(state, strict=True)
    assert encoder.vit.blocks[11].mlp.fc2.weight.abs().max() == 0


class TestCheckpoint:

    def test_is_read_at_the_first_call(self, weights, file) -> None:
        encoder = ViTUSS(NAME, file)
        assert not torch.equal(encoder.vit.cls_token, weights['cls_token'])
        encoder(torch.zeros(1, 3, 16, 16))
        for name, value in encoder.vit.state_dict().items():
            assert torch.equal(value, weights[name])
        encoder.vit.cls_token.data.zero_()
        encoder(torch.zeros(1, 3, 16, 16))
        assert encoder.vit.cls_token.abs().max() == 0  # and not again

    @pytest.mark.parametrize('wrap', [lambda state: state, lambda state: dict(state_dict=state)])
    def test_pth_in_half_precision(self, weights, tmp_path, wrap) -> None:
        path = tmp_path / 'vit.pth'
        torch.save(wrap({k: v.half() for k, v in weights.items()}), path)
        encoder = ViTUSS(NAME, str(path))
        encoder.init_weights()
        for name, value in encoder.vit.state_dict().items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-3)

    def test_missing_file(self, tmp_path) -> None:
        encoder = ViTUSS(NAME, str(tmp_path / 'absent.safetensors'))  # not needed to build
        with pytest.raises(UserError, match=r'absent\.safetensors.*save_timm_weights\.py test_vit.*'
                           'model.uss_encoder.checkpoint'):
            encoder(torch.zeros(1, 3, 16, 16))

    def test_of_another_model(self, weights, tmp_path) -> None:
        del weights['blocks.5.mlp.fc1.weight']
        save_file(weights, tmp_path / 'other.safetensors')
        encoder = ViTUSS(NAME, str(tmp_path / 'other.safetensors'))
        with pytest.raises(UserError, match=r'other\.safetensors does not fit test_vit: 1 .*fc1'):
            encoder.init_weights()

    def test_of_another_width(self, weights, tmp_path) -> None:
        weights['norm.weight'] = torch.ones(32)
        save_file(weights, tmp_path / 'other.safetensors')
        encoder = ViTUSS(NAME, str(tmp_path / 'other.safetensors'))
        with pytest.raises(UserError, match=r'other\.safetensors does not fit test_vit: '
                           r'size mismatch for norm\.weight.*\[32\].*\[64\]'):
            encoder.init_weights()

    def test_start_of_a_training_reads_it(self, tiny_model, mmseg_modules, tmp_path) -> None:
        absent = dict(type='ViTUSS', model_name=NAME, checkpoint=str(tmp_path / 'absent.pth'))
        model = MODELS.build(tiny_model(uss_encoder=absent))
        assert len(model.eval().predict(torch.zeros(1, 3, 32, 32))) == 1  # a test does without
        with pytest.raises(UserError, match=r'absent\.pth'):
            model.init_weights()


def test_dino_v2_architecture_on_real_weights(shared_dir) -> None:
    file = shared_dir / 'weights' / 'vit_s14_imgfocus_fp16.safetensors'
    if not file.is_file():
        pytest.skip(f'needs {file.name}')
    encoder = ViTUSS('vit_small_patch14_dinov2', str(file))
    # Left half red, right half green: tokens are more alike within a half than across.
    image = torch.zeros(1, 3, 70, 140)
    image[:, 0, :, :70] = 200
    image[:, 1, :, 70:] = 200
    image += torch.randn(image.shape, generator=torch.Generator().manual_seed(0)) * 5
    features, = encoder(image.clamp(0, 255))
    assert features.shape == (1, 384, 5, 10) and features.isfinite().all()
    unit = F.normalize(features[0].flatten(1), dim=0).unflatten(1, (5, 10))
    similarity = torch.einsum('dhw,dij->hwij', unit, unit)
    within = (similarity[:, :5, :, :5].mean() + similarity[:, 5:, :, 5:].mean()) / 2
    assert within > similarity[:, :5, :, 5:].mean() + 0.01
    stored = load_file(file)
    for name, value in encoder.vit.state_dict().items():
        assert torch.equal(value, stored[name].float())
