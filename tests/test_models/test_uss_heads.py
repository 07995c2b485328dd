from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS

from mmseg_dhr.models.uss import CAUSEMLPHead, CAUSETRHead, STEGOHead
from mmseg_dhr.utils import UserError

DOCUMENT = Path(__file__).parents[2] / 'docs' / 'en' / 'uss.md'


def randomise(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=.3)
    return module.eval()


def matrix(state, name):
    return state[f'{name}.weight'].flatten(1), state[f'{name}.bias']


def mlp_by_hand(state, tokens, linear, nonlinear):
    """(..., F) -> (..., d): f1(x) + f2(x)."""
    hidden = F.relu(F.linear(tokens, *matrix(state, f'{nonlinear}.0')))
    return F.linear(tokens, *matrix(state, linear)) + F.linear(
        hidden, *matrix(state, f'{nonlinear}.2'))


def attention_by_hand(state, name, heads, queries, memory):
    """(n, D) attends to (m, D)."""
    weight, bias = state[f'{name}.in_proj_weight'], state[f'{name}.in_proj_bias']
    q, k, v = (F.linear(x, w, b).unflatten(1, (heads, -1)) for x, w, b in zip(
        (queries, memory, memory), weight.chunk(3), bias.chunk(3), strict=True))
    scores = torch.einsum('qhd,khd->hqk', q, k) / math.sqrt(q.shape[-1])
    mixed = torch.einsum('hqk,khd->qhd', scores.softmax(-1), v).flatten(1)
    return F.linear(mixed, *matrix(state, f'{name}.out_proj'))


def norm_by_hand(state, name, x):
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return x * state[f'{name}.weight'] + state[f'{name}.bias']


def decoder_by_hand(state, heads, queries, memory):
    x = norm_by_hand(state, 'tr.norm1',
                     queries + attention_by_hand(state, 'tr.self_attn', heads, queries, queries))
    x = norm_by_hand(state, 'tr.norm2',
                     x + attention_by_hand(state, 'tr.multihead_attn', heads, x, memory))
    hidden = F.relu(F.linear(x, *matrix(state, 'tr.linear1')))
    return norm_by_hand(state, 'tr.norm3', x + F.linear(hidden, *matrix(state, 'tr.linear2')))


def resized_by_hand(queries, count):
    """Linear interpolation along the index, pixel centres aligned."""
    rows = []
    for i in range(count):
        x = min(max((i + .5) * len(queries) / count - .5, 0), len(queries) - 1)
        low = int(x)
        high = min(low + 1, len(queries) - 1)
        rows.append(queries[low] * (1 - (x - low)) + queries[high] * (x - low))
    return torch.stack(rows)


STEGO_KEYS = {'cluster1.0.weight': (5, 12, 1, 1), 'cluster1.0.bias': (5, ),
              'cluster2.0.weight': (12, 12, 1, 1), 'cluster2.0.bias': (12, ),
              'cluster2.2.weight': (5, 12, 1, 1), 'cluster2.2.bias': (5, )}
MLP_KEYS = {'f1.weight': (5, 12, 1, 1), 'f1.bias': (5, ), 'f2.0.weight': (12, 12, 1, 1),
            'f2.0.bias': (12, ), 'f2.2.weight': (5, 12, 1, 1), 'f2.2.bias': (5, )}
TR_KEYS = {**MLP_KEYS, 'query_pos': (6, 12),
           **{f'tr.{name}.{key}': shape for name in ('self_attn', 'multihead_attn')
              for key, shape in {'in_proj_weight': (36, 12), 'in_proj_bias': (36, ),
                                 'out_proj.weight': (12, 12), 'out_proj.bias': (12, )}.items()},
           'tr.linear1.weight': (2048, 12), 'tr.linear1.bias': (2048, ),
           'tr.linear2.weight': (12, 2048), 'tr.linear2.bias': (12, ),
           **{f'tr.norm{i}.{key}': (12, ) for i in (1, 2, 3) for key in ('weight', 'bias')}}


@pytest.mark.parametrize(('head', 'keys'), [
    (STEGOHead(12, 5), STEGO_KEYS), (CAUSEMLPHead(12, 5), MLP_KEYS),
    (CAUSETRHead(12, 5, num_queries=6), TR_KEYS),
])
def test_official_names(head, keys) -> None:
    assert {key: tuple(value.shape) for key, value in head.state_dict().items()} == keys


@pytest.mark.parametrize(('head', 'names'), [
    (STEGOHead(12, 5), ('cluster1.0', 'cluster2')), (CAUSEMLPHead(12, 5), ('f1', 'f2')),
])
@pytest.mark.parametrize('size', [(3, 4), (1, 1), (1, 7)])
def test_mlp_heads(head, names, size) -> None:
    randomise(head)
    features = torch.randn(2, 12, *size)
    code = head(features)
    expected = mlp_by_hand(head.state_dict(), features.permute(0, 2, 3, 1), *names)
    assert code.shape == (2, 5, *size)
    torch.testing.assert_close(code, expected.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size', [(2, 3), (1, 1), (3, 5), (1, 4)])
@pytest.mark.parametrize('heads', [12, 4])
@torch.no_grad()
def test_transformer_head(size, heads) -> None:
    head = randomise(CAUSETRHead(12, 5, num_heads=heads, num_queries=6, hidden_channels=7))
    state, features = head.state_dict(), torch.randn(2, 12, *size)
    code = head(features)
    for found, image in zip(code, features, strict=True):
        queries = resized_by_hand(state['query_pos'], size[0] * size[1])
        tokens = decoder_by_hand(state, heads, queries, image.flatten(1).t())
        expected = mlp_by_hand(state, tokens, 'f1', 'f2').t().unflatten(1, size)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_queries_are_those_learned_on_a_grid_of_their_number() -> None:
    head = randomise(CAUSETRHead(12, 5, num_queries=6))
    assert head.queries(6) is head.query_pos
    torch.testing.assert_close(head.queries(9), resized_by_hand(head.query_pos, 9))


def test_gradients_reach_every_parameter() -> None:
    for head in (STEGOHead(12, 5), CAUSEMLPHead(12, 5), CAUSETRHead(12, 5, num_queries=6)):
        randomise(head)(torch.randn(1, 12, 3, 4)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in head.parameters())


def test_defaults() -> None:
    assert STEGOHead(24).dim == 70 and CAUSEMLPHead(24).dim == 90
    head = CAUSETRHead(24)
    assert (head.dim, len(head.query_pos), head.tr.self_attn.num_heads) == (90, 1600, 12)
    assert .01 < head.query_pos.std() < .03


@torch.no_grad()
def test_bfloat16() -> None:
    head = randomise(CAUSETRHead(12, 5, num_queries=6))
    features = torch.randn(1, 12, 3, 4)
    expected = head(features)
    code = head.bfloat16()(features.bfloat16())
    assert code.dtype == torch.bfloat16
    torch.testing.assert_close(code.float(), expected, rtol=.1, atol=.2)


def test_heads_that_do_not_share_out() -> None:
    with pytest.raises(ValueError, match='multiple of num_heads = 12, but got 64'):
        CAUSETRHead(64)


def _without_files(config):
    """The config with every file left out."""
    return {key: _without_files(value) if isinstance(value, dict) else value
            for key, value in config.items() if key not in ('checkpoint', 'codebook')}


def _documented_encoders():
    blocks = re.findall(r'```python\n(.*?)```', DOCUMENT.read_text(), re.DOTALL)
    for block in blocks:
        names = {}
        exec(block, names)
        if 'uss_encoder' in names:
            yield names['uss_encoder']



@pytest.mark.parametrize('config', list(_documented_encoders()), ids=lambda config: config['type'])
def test_documented_configs(config, mmseg_modules) -> None:
    with torch.device('meta'):  # sizes alone: the transformers are large
        absent, encoder = MODELS.build(config), MODELS.build(_without_files(config))
    with pytest.raises(UserError, match='not found'):
        absent.init_weights()
    assert encoder.out_channels in (70, 90, 384)
    assert all(p.is_meta and not p.requires_grad for p in encoder.parameters())
