"""Tests of what a wheel of the package holds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from mmseg_dhr import __version__

_SOURCES = (
    'LICENSE',
    'MANIFEST.in',
    'README.md',
    'configs',
    'mmseg_dhr',
    'model-index.yml',
    'pyproject.toml',
    'requirements',
    'setup.py',
    'tests',
    'tools',
)


def _setup(source: Path, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, 'setup.py', '-q', *command],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def source(tmp_path: Path, repo_root: Path) -> Path:
    """Copy of the sources, as building leaves files among them."""
    copy = tmp_path / 'source'
    copy.mkdir()
    for name in _SOURCES:
        path = repo_root / name
        if path.is_dir():
            ignore = shutil.ignore_patterns('__pycache__', '.mim')
            shutil.copytree(path, copy / name, ignore=ignore)
        else:
            shutil.copy2(path, copy / name)
    return copy


@pytest.fixture
def wheel(source: Path, tmp_path: Path) -> zipfile.ZipFile:
    _setup(source, 'bdist_wheel', '-d', str(tmp_path))
    (path,) = tmp_path.glob('*.whl')
    return zipfile.ZipFile(path)


def test_wheel_holds_package_configs_and_tools(wheel: zipfile.ZipFile, repo_root: Path) -> None:
    names = set(wheel.namelist())
    for folder in ('configs', 'tools'):
        for path in (repo_root / folder).rglob('*.py'):
            if '__pycache__' not in path.parts and 'dev' not in path.parts:
                assert f'mmseg_dhr/.mim/{path.relative_to(repo_root).as_posix()}' in names
    for path in (repo_root / 'mmseg_dhr').rglob('*.py'):
        if '.mim' not in path.parts:
            assert path.relative_to(repo_root).as_posix() in names
    assert 'mmseg_dhr/.mim/model-index.yml' in names


def test_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    for name in wheel.namelist():
        assert name.startswith(('mmseg_dhr/', f'mmseg_dhr-{__version__}.dist-info/'))
        assert not {'tests', '__pycache__', 'dev'} & set(name.split('/'))


def test_model_index_names_files_of_the_wheel(wheel: zipfile.ZipFile) -> None:
    index = yaml.safe_load(wheel.read('mmseg_dhr/.mim/model-index.yml'))
    for name in index['Import']:
        metafile = yaml.safe_load(wheel.read(f'mmseg_dhr/.mim/{name}'))
        for model in metafile.get('Models', []):
            assert f'mmseg_dhr/.mim/{model["Config"]}' in wheel.namelist()


def test_metadata(wheel: zipfile.ZipFile) -> None:
    name = f'mmseg_dhr-{__version__}.dist-info/METADATA'
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata['Version'] == __version__
    assert set(metadata.get_all('Provides-Extra')) == {'official', 'onedl'}
    required = [line for line in metadata.get_all('Requires-Dist') if 'extra ==' not in line]
    assert 'torch>=2.1' in required
    # Either family serves, so installing the package forces neither.
    assert not [line for line in required if line.startswith(('mm', 'onedl'))]


def test_editable_installation_links_to_the_sources(source: Path, tmp_path: Path) -> None:
    _setup(source, 'editable_wheel', '-d', str(tmp_path))
    mim = source / 'mmseg_dhr' / '.mim'
    assert (mim / 'configs').resolve() == source / 'configs'
    assert (mim / 'tools').resolve() == source / 'tools'


def test_wheel_after_editable_installation_leaves_the_sources_alone(
    source: Path, tmp_path: Path
) -> None:
    _setup(source, 'editable_wheel', '-d', str(tmp_path / 'editable'))
    _setup(source, 'bdist_wheel', '-d', str(tmp_path))
    (path,) = tmp_path.glob('*.whl')
    names = zipfile.ZipFile(path).namelist()
    assert 'mmseg_dhr/.mim/model-index.yml' in names
    assert len(names) == len(set(names))
    assert (source / 'configs').is_dir() and (source / 'tools').is_dir()


def test_source_distribution_builds_the_same_wheel(
    source: Path, tmp_path: Path, wheel: zipfile.ZipFile
) -> None:
    _setup(source, 'sdist', '-d', str(tmp_path))
    (archive,) = tmp_path.glob('*.tar.gz')
    shutil.unpack_archive(archive, tmp_path / 'unpacked', filter='data')
    (unpacked,) = (tmp_path / 'unpacked').iterdir()
    _setup(unpacked, 'bdist_wheel', '-d', str(tmp_path / 'again'))
    (path,) = (tmp_path / 'again').glob('*.whl')
    assert sorted(zipfile.ZipFile(path).namelist()) == sorted(wheel.namelist())
