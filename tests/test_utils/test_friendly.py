from __future__ import annotations

import errno
import os
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch._utils import ExceptionWrapper

from mmseg_dhr.formats import read_mask
from mmseg_dhr.ops import DenseCRFParams, dense_crf
from mmseg_dhr.utils import UserError, friendly_errors
from mmseg_dhr.utils.friendly import DEBUG_ENV, error_line


def raise_user_error():
    raise UserError('expected a,\n  but found b')


def raise_value_error():
    raise ValueError('not ours')


def caught(function) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError('nothing was raised')


def caught_from_worker(function) -> Exception:
    """As torch hands it to the main process; tools/test.py is tested with a real worker."""
    try:
        function()
    except Exception:
        wrapper = ExceptionWrapper(where='in DataLoader worker process 0')
    return caught(wrapper.reraise)


@pytest.fixture(autouse=True)
def _no_debug(monkeypatch):
    monkeypatch.delenv(DEBUG_ENV, raising=False)


@pytest.mark.parametrize('catch', [caught, caught_from_worker])
def test_user_error_is_one_line(catch):
    assert error_line(catch(raise_user_error)) == 'expected a, but found b'


@pytest.mark.parametrize('catch', [caught, caught_from_worker])
def test_what_the_package_raises_on_purpose_is_the_users(catch, tmp_path):
    (tmp_path / 'x.png').write_bytes(b'no image')
    line = error_line(catch(lambda: read_mask(tmp_path / 'x.png')))
    assert line.startswith(f'{tmp_path}/x.png: not a complete image file (')
    assert '\n' not in line and 'Traceback' not in line


@pytest.mark.parametrize('catch', [caught, caught_from_worker])
def test_bugs_keep_their_traceback(catch):
    assert error_line(catch(raise_value_error)) is None
    # The innermost frame is in this package, but nothing there says `raise`.
    assert error_line(catch(lambda: dense_crf(None, None, DenseCRFParams()))) is None
    assert error_line(catch(lambda: torch.zeros(2) + torch.zeros(3))) is None


@pytest.mark.parametrize('catch', [caught, caught_from_worker])
def test_missing_file_is_named(catch, tmp_path):
    line = error_line(catch(lambda: (tmp_path / 'absent').read_bytes()))
    assert f'{tmp_path}/absent' in line and 'No such file' in line


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS, errno.EEXIST])
def test_a_disk_that_takes_nothing_is_the_users(code):
    def fail():
        raise OSError(code, os.strerror(code), 'out/a.png')

    assert error_line(caught(fail)) == f'out/a.png: {os.strerror(code)}.'


def test_errors_of_mmseg_are_reworded(tmp_path):
    def fail(text):
        raise AssertionError(text)

    assert error_line(caught(lambda: fail('failed to load image: a/b.jpg'))).startswith(
        'a/b.jpg: expected an image')
    assert error_line(caught(lambda: fail('Failed to load `ann_file` x.txt'))).startswith(
        'x.txt: no such list')
    line = error_line(caught(lambda: MODELS.build(dict(type='NoSuchModel'))))
    # The scope that searched is named after mmengine or mmseg, by version.
    assert re.match(r'NoSuchModel is not in the \w+::model registry\. Check the spelling', line)
    assert error_line(caught(lambda: fail('something else'))) is None


def test_bad_base_of_a_config(tmp_path):
    (tmp_path / 'a.py').write_text("_base_ = ['absent.py']")
    line = error_line(caught(lambda: Config.fromfile(tmp_path / 'a.py')))
    assert 'absent.py' in line


def test_exit_code_and_one_line_on_stderr(capsys):
    with pytest.raises(SystemExit) as stop, friendly_errors():
        raise_user_error()
    assert stop.value.code == 2
    assert capsys.readouterr().err == 'error: expected a, but found b\n'


def test_other_errors_pass():
    with pytest.raises(ValueError, match='not ours'), friendly_errors():
        raise_value_error()


@pytest.mark.parametrize('how', ['argument', 'environment'])
def test_debug_shows_everything(how, monkeypatch):
    if how == 'environment':
        monkeypatch.setenv(DEBUG_ENV, '1')
    with pytest.raises(UserError), friendly_errors(debug=how == 'argument'):
        raise_user_error()


def test_nothing_happens_without_an_error(capsys):
    with friendly_errors():
        pass
    assert capsys.readouterr() == ('', '')
