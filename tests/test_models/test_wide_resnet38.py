from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import nn

from mmseg_dhr.models.backbones import WideResNet38, mxnet_to_wide_resnet38
from mmseg_dhr.utils import UserError
from tests.test_models.test_mxnet_params import V1, write_params

NARROW = 4
# Units of each block by their suffix in MXNet's file, and their convolutions.
UNITS = {2: ['a', 'b1', 'b2'], 3: ['a', 'b1', 'b2'], 4: ['a', 'b1', 'b2', 'b3', 'b4', 'b5'],
         5: ['a', 'b1', 'b2'], 6: ['a'], 7: ['a']}
WIDTHS = {2: (128, 128), 3: (256, 256), 4: (512, 512), 5: (512, 1024), 6: (512, 1024, 2048),
          7: (1024, 2048, 4096)}
BRANCHES = ('branch2a', 'branch2b1', 'branch2b2')


def published_shapes(base=64):
    """Names and shapes of the published MXNet file, from the paper's table of model A1."""
    def scale(channels):
        return channels * base // 64

    def norm(name, channels):
        return {f'arg:{name}_gamma': (channels, ), f'arg:{name}_beta': (channels, ),
                f'aux:{name}_moving_mean': (channels, ), f'aux:{name}_moving_var': (channels, )}

    shapes = {'arg:conv1a_weight': (base, 3, 3, 3)}
    width = base
    for block, suffixes in UNITS.items():
        kernels = (3, 3) if len(WIDTHS[block]) == 2 else (1, 3, 1)
        for suffix in suffixes:
            unit, inner = f'{block}{suffix}', width
            for branch, channels, kernel in zip(BRANCHES, WIDTHS[block], kernels, strict=False):
                shapes.update(norm(f'bn{unit}_{branch}', inner))
                shapes[f'arg:res{unit}_{branch}_weight'] = (scale(channels), inner, kernel, kernel)
                inner = scale(channels)
            if suffix == 'a':
                shapes[f'arg:res{unit}_branch1_weight'] = (inner, width, 1, 1)
            width = inner
    return {**shapes, **norm('bn7', width), 'arg:linear1000_weight': (1000, width),
            'arg:linear1000_bias': (1000, )}


def published_file(path, version=None):
    """Random weights of a narrow network in the official layout."""
    rng = torch.Generator().manual_seed(0)
    params = {name: torch.rand(shape, generator=rng).numpy()
              for name, shape in published_shapes(NARROW).items()}
    write_params(path, params, version)
    return params


@pytest.fixture
def build(mmseg_modules):
    def make(**options):
        return MODELS.build(dict(type='WideResNet38', base_channels=NARROW, **options))
    return make


def by_hand(state, x, block, number, stride, dilations):
    """One unit of "Wider or Deeper" with functional calls; returns its output and activation."""
    unit = f'b{block}_{number}' if number else f'b{block}'
    branches = BRANCHES[:len(WIDTHS[block])]
    out, activated = x, None
    for i, (branch, dilation) in enumerate(zip(branches, dilations, strict=True)):
        norm = f'{unit}.bn_{branch}.'
        out = F.batch_norm(out, state[norm + 'running_mean'], state[norm + 'running_var'],
                           state[norm + 'weight'], state[norm + 'bias']).relu()
        activated = out if activated is None else activated
        weight = state[f'{unit}.conv_{branch}.weight']
        out = F.conv2d(out, weight, None, stride if i == 0 else 1,
                       weight.shape[-1] // 2 * dilation, dilation)
    if number == 0:
        x = F.conv2d(activated, state[f'{unit}.conv_branch1.weight'], None, stride)
    return out + x, activated


class TestForward:

    @torch.no_grad()
    def test_equals_the_paper_unit_by_unit(self, build) -> None:
        torch.manual_seed(0)
        model = build().eval()
        for name, value in model.state_dict().items():
            if 'running' in name or 'bn' in name and 'weight' in name:
                value.copy_(torch.rand_like(value.float()) * .4 + .8)
        state, x = model.state_dict(), torch.randn(1, 3, 17, 26)
        features = model(x)
        x = F.conv2d(x, state['conv1a.weight'], None, 1, 1)
        taps = []
        for block, suffixes in UNITS.items():
            for number in range(len(suffixes)):
                dilations = {5: (1 if number == 0 else 2, 2), 6: (1, 4, 1),
                             7: (1, 4, 1)}.get(block, (1, 1))
                x, activated = by_hand(state, x, block, number,
                                       2 if block < 5 and number == 0 else 1, dilations)
                if number == 0 and 3 <= block <= 6:
                    taps.append(activated)
        taps.append(F.batch_norm(x, state['bn7.running_mean'], state['bn7.running_var'],
                                 state['bn7.weight'], state['bn7.bias']).relu())
        assert len(features) == len(taps) == 5
        for ours, expected in zip(features, taps, strict=True):
            torch.testing.assert_close(ours, expected)
        sizes = [(9, 13), (5, 7), (3, 4), (3, 4), (3, 4)]  # strides 2, 4, 8, 8, 8, rounded up
        assert [tuple(f.shape[-2:]) for f in features] == sizes
        assert [f.shape[1] for f in features] == [c * NARROW // 64
                                                 for c in (128, 256, 512, 1024, 4096)]

    @torch.no_grad()
    def test_out_indices(self, build) -> None:
        model = build(out_indices=(2, 3, 4)).eval()
        x = torch.randn(1, 3, 16, 16)
        model.out_indices, every = (0, 1, 2, 3, 4), model.out_indices
        full = model(x)
        model.out_indices = every
        assert all(map(torch.equal, model(x), full[2:]))
        with pytest.raises(ValueError, match=r'out_indices among 0\.\.4, but got \(5,\)'):
            build(out_indices=(5, ))

    def test_full_width_has_the_published_parameters(self) -> None:
        with torch.device('meta'):
            model = WideResNet38()
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()
                  if not name.endswith('num_batches_tracked')}
        renamed = mxnet_to_wide_resnet38(published_shapes())
        assert shapes == renamed
        assert {'b2.conv_branch2a.weight', 'b4_5.bn_branch2b1.running_var', 'bn7.bias',
                'b7.conv_branch1.weight', 'b6.conv_branch2b2.weight'} <= set(shapes)
        layers = [name for name, module in model.named_modules()
                  if isinstance(module, nn.Conv2d) and 'branch1' not in name]
        assert len(layers) + 1 == 38  # and the classifier

    def test_dropout_in_training(self, build) -> None:
        model = build().train()
        x = torch.randn(2, 3, 16, 16)
        first, second = model(x), model(x)
        assert torch.equal(first[3], second[3])  # before B6
        assert not torch.equal(first[4], second[4])
        assert torch.equal(model.eval()(x)[4], model(x)[4])


class TestFreezing:

    def trained(self, model):
        return {name for name, p in model.named_parameters() if p.requires_grad}

    def test_as_psa_and_seam(self, build) -> None:
        model = build().train()
        trained = self.trained(model)
        assert trained == {name for name, _ in model.named_parameters()
                           if 'conv' in name and not name.startswith(('conv1a', 'b2'))}
        assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        before = model.bn7.running_mean.clone()
        model(torch.randn(2, 3, 16, 16))[-1].sum().backward()
        assert torch.equal(before, model.bn7.running_mean)
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)

    def test_nothing(self, build) -> None:
        model = build(frozen_stages=-1, norm_eval=False).train()
        assert self.trained(model) == {name for name, _ in model.named_parameters()}
        assert all(m.training for m in model.modules())

    def test_more_blocks(self, build) -> None:
        trained = self.trained(build(frozen_stages=3))
        assert trained and not any(n.startswith(('conv1a', 'b2', 'b3', 'b4')) for n in trained)
        assert {n.split('.')[0] for n in trained} == {'b5', 'b5_1', 'b5_2', 'b6', 'b7'}


class TestWeights:

    def init(self, build, path):
        torch.manual_seed(5)
        model = build(init_cfg=dict(type='WideResNet38Init', checkpoint=str(path)))
        model.init_weights()
        return model

    @pytest.mark.parametrize('version', [None, V1])
    def test_mxnet_file(self, build, tmp_path, version) -> None:
        params = published_file(tmp_path / 'w.params', version)
        state = self.init(build, tmp_path / 'w.params').state_dict()
        names = {'conv1a.weight': 'arg:conv1a_weight', 'bn7.running_var': 'aux:bn7_moving_var',
                 'b2.conv_branch2a.weight': 'arg:res2a_branch2a_weight',
                 'b4_5.bn_branch2b1.running_mean': 'aux:bn4b5_branch2b1_moving_mean',
                 'b5.conv_branch1.weight': 'arg:res5a_branch1_weight',
                 'b7.bn_branch2b2.bias': 'arg:bn7a_branch2b2_beta',
                 'b3_2.bn_branch2a.weight': 'arg:bn3b2_branch2a_gamma'}
        for ours, theirs in names.items():
            assert torch.equal(state[ours], torch.from_numpy(params[theirs]))
        assert len(mxnet_to_wide_resnet38(params)) == len(params) - 2  # all but the classifier

    @pytest.mark.parametrize('layout', ['plain', 'parallel', 'checkpoint'])
    def test_converted_file(self, build, tmp_path, layout) -> None:
        """What SEAM's users have: names of the modules, heads of another network beside them."""
        source = build(frozen_stages=-1)
        state = {**source.state_dict(), 'fc8.weight': torch.zeros(20, 256, 1, 1)}
        if layout == 'parallel':
            state = {f'module.{name}': value for name, value in state.items()}
        content = dict(state_dict=state) if layout == 'checkpoint' else state
        torch.save(content, tmp_path / 'res38d.pth')
        loaded = self.init(build, tmp_path / 'res38d.pth').state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in source.state_dict().items())

    def test_incomplete(self, build, tmp_path) -> None:
        params = published_file(tmp_path / 'w.params')
        del params['arg:res6a_branch2b2_weight']
        write_params(tmp_path / 'w.params', params)
        with pytest.raises(UserError, match=r'w\.params: expected the weights of a Wide-ResNet-38.*'
                           r'b6\.conv_branch2b2\.weight'):
            self.init(build, tmp_path / 'w.params')

    def test_of_another_width(self, build, tmp_path) -> None:
        published_file(tmp_path / 'w.params')
        model = WideResNet38(base_channels=8, init_cfg=dict(
            type='WideResNet38Init', checkpoint=str(tmp_path / 'w.params')))
        with pytest.raises(UserError, match='size mismatch'):
            model.init_weights()

    @pytest.mark.parametrize('name', ['arg:conv0_weight', 'arg:res2a_branch2a_scale',
                                      'arg:bn7_weird'])
    def test_of_another_network(self, build, tmp_path, name) -> None:
        write_params(tmp_path / 'w.params', {name: torch.zeros(1).numpy()})
        with pytest.raises(UserError, match=f"'{name}' is no parameter of a Wide-ResNet-38"):
            self.init(build, tmp_path / 'w.params')

    def test_missing_damaged_and_empty(self, build, tmp_path) -> None:
        with pytest.raises(UserError, match=r'no such file\. Expected.*docs/en/models\.md'):
            self.init(build, tmp_path / 'w.params')
        (tmp_path / 'w.params').write_bytes(b'<html>not found</html>')
        with pytest.raises(UserError, match='not a whole parameter file of MXNet'):
            self.init(build, tmp_path / 'w.params')
        (tmp_path / 'w.pth').write_bytes(b'<html>not found</html>')
        with pytest.raises(UserError, match='not a whole torch file'):
            self.init(build, tmp_path / 'w.pth')
        torch.save([1], tmp_path / 'w.pth')
        with pytest.raises(UserError, match='expected the weights of a Wide-ResNet-38'):
            self.init(build, tmp_path / 'w.pth')
