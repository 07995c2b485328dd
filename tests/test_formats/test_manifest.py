from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import torch
from torch import nn

from mmseg_dhr.formats import MANIFEST_NAME, Manifest, open_output, state_fingerprint

SETTINGS = dict(scales=(1, .5), weights='abc')


def fill(output, ids):
    for image_id in ids:
        output.path(image_id).write_text('x')


def test_fresh_folder(tmp_path):
    output = open_output(tmp_path / 'new', SETTINGS, ['a', 'b'], '.png')
    assert output.remaining == ['a', 'b']
    manifest = Manifest.load(tmp_path / 'new')
    assert not manifest.complete
    assert manifest.settings == dict(scales=[1, .5], weights='abc')
    fill(output, 'ab')
    output.finish()
    content = json.loads((tmp_path / 'new' / MANIFEST_NAME).read_text())
    assert content['complete'] is True and content['count'] == 2
    assert content['fingerprint'] == manifest.fingerprint


def test_goes_on_where_it_stopped(tmp_path):
    fill(open_output(tmp_path, SETTINGS, ['a', 'b', 'c'], '.png'), 'b')
    output = open_output(tmp_path, SETTINGS, ['a', 'b', 'c'], '.png')
    assert output.remaining == ['a', 'c']
    with pytest.raises(RuntimeError, match=r"2 of 3 files are missing, among them \['a', 'c'\]"):
        output.finish()
    assert not Manifest.load(tmp_path).complete


def test_more_ids_make_it_incomplete(tmp_path):
    output = open_output(tmp_path, SETTINGS, ['a'], '.png')
    fill(output, 'a')
    output.finish()
    assert open_output(tmp_path, SETTINGS, ['a', 'b'], '.png').remaining == ['b']
    assert not Manifest.load(tmp_path).complete


def test_other_settings(tmp_path):
    fill(open_output(tmp_path, SETTINGS, ['a', 'b'], '.png'), 'ab')
    other = dict(SETTINGS, weights='def')
    with pytest.raises(ValueError, match="weights was 'abc' and is now 'def'"):
        open_output(tmp_path, other, ['a', 'b'], '.png')
    assert open_output(tmp_path, SETTINGS, ['a', 'b'], '.png').remaining == []  # nothing was lost
    (tmp_path / 'notes.txt').write_text('mine')
    output = open_output(tmp_path, other, ['a', 'c'], '.png', overwrite=True)
    assert output.remaining == ['a', 'c']
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST_NAME, 'notes.txt']


@pytest.mark.parametrize('overwrite', [False, True])
def test_foreign_files_are_not_touched(tmp_path, overwrite):
    (tmp_path / 'truth.png').write_text('precious')
    with pytest.raises(ValueError, match=r'1 \*\.png files of unknown origin, such as truth\.png'):
        open_output(tmp_path, SETTINGS, ['a'], '.png', overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ['truth.png']


def test_unreadable_manifest(tmp_path):
    (tmp_path / MANIFEST_NAME).write_text('{"complete": true}')
    with pytest.raises(ValueError, match=r'manifest\.json: expected an object with `settings`'):
        open_output(tmp_path, SETTINGS, ['a'], '.png')


def test_changed_details_are_made_anew(tmp_path):
    ids = ['a', 'b', 'c']
    fill(open_output(tmp_path, SETTINGS, ids, '.png', details=dict(a='1', b='1 2', c='')), ids)
    output = open_output(tmp_path, SETTINGS, ids, '.png', details=dict(a='1', b='2', c=''))
    assert output.remaining == ['b']
    fill(output, 'b')
    # 'c' is left out and 'd' is new: what is known of 'c' stays
    open_output(tmp_path, SETTINGS, ids, '.png', details=dict(a='1', b='2', d='3'))
    assert Manifest.load(tmp_path).details == dict(a='1', b='2', c='', d='3')
    assert open_output(tmp_path, SETTINGS, ids, '.png', details=dict(c='7')).remaining == ['c']


@pytest.mark.parametrize('overwrite', [False, True])
def test_files_of_another_kind(tmp_path, overwrite):
    fill(open_output(tmp_path, SETTINGS, 'ab', '.npz'), 'ab')
    with pytest.raises(ValueError, match=r'a folder for \*\.png files, but found 2 \*\.npz files'):
        open_output(tmp_path, dict(kind='masks'), 'ab', '.png', overwrite)
    assert open_output(tmp_path, SETTINGS, 'ab', '.npz').remaining == []  # nothing was lost


def test_settings_must_be_json(tmp_path):
    with pytest.raises(ValueError, match='what JSON can hold'):
        open_output(tmp_path / 'new', dict(weights=torch.zeros(1)), ['a'], '.png')
    assert not (tmp_path / 'new').exists()


def test_fingerprint_ignores_order():
    assert Manifest(dict(a=1, b=2)).fingerprint == Manifest(dict(b=2, a=1)).fingerprint
    assert Manifest(dict(a=1)).fingerprint != Manifest(dict(a=2)).fingerprint


class TestStateFingerprint:

    def test_module_equals_its_state(self):
        module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
        state = module.state_dict()
        assert state_fingerprint(module) == state_fingerprint(state)
        assert state_fingerprint(OrderedDict(reversed(state.items()))) == state_fingerprint(state)

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.int64, torch.bool])
    def test_every_value_counts(self, dtype):
        values = torch.zeros(2, 3).to(dtype)
        changed = values.clone()
        changed[1, 2] = 1
        prints = {state_fingerprint(dict(a=tensor)) for tensor in
                  (values, changed, values.T, values.flatten(), values.to(torch.float64))}
        prints |= {state_fingerprint(dict(b=values)), state_fingerprint(dict(a=values, b=values))}
        assert len(prints) == 7
        assert state_fingerprint(dict(a=values.T.contiguous().T)) in prints

    def test_scalars_and_empty(self):
        one, two = torch.tensor(1), torch.tensor(2)
        assert state_fingerprint(dict(a=one)) != state_fingerprint(dict(a=two))
        assert state_fingerprint(dict(a=torch.zeros(0))) != state_fingerprint({})
        assert state_fingerprint(dict(a=1)) != state_fingerprint(dict(a=2))
