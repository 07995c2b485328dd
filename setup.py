"""Packaging of mmseg_dhr."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# What MIM (`mim train mmseg_dhr CONFIG`) and mmengine look for in `.mim`.
MIM_FILES = ('configs', 'tools', 'model-index.yml')


def read_version() -> str:
    """Returns the version without importing the package and its needs."""
    scope: dict[str, str] = {}
    exec((ROOT / 'mmseg_dhr' / 'version.py').read_text(encoding='utf-8'), scope)
    return scope['__version__']


def read_requirements(name: str) -> list[str]:
    """Returns the lines of ``requirements/{name}.txt`` but comments."""
    text = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8')
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith('#')]


class BuildWithMim(build_py):
    """Adds configs, tools and the model index to the package as ``.mim``.

    A wheel gets copies, an editable installation links to the originals.
    """

    def run(self) -> None:
        super().run()
        base = ROOT if self.editable_mode else Path(self.build_lib)
        mim = base / 'mmseg_dhr' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in MIM_FILES:
            self.add(ROOT / name, mim / name)

    def add(self, source: Path, target: Path) -> None:
        """Puts one file or folder in place, without what only developers use."""
        if self.editable_mode:
            target.symlink_to(source)
        elif source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__', 'dev'))
        else:
            shutil.copy2(source, target)


official, onedl = read_requirements('official'), read_requirements('onedl')

setup(
    name='mmseg_dhr',
    version=read_version(),
    description='Weakly supervised semantic segmentation with DHR for MMSegmentation',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmseg_dhr', 'mmseg_dhr.*']),
    include_package_data=True,
    python_requires='>=3.10',
    install_requires=read_requirements('runtime'),
    # Two families of distributions serve the same modules, so neither can be
    # a plain requirement.
    extras_require={'official': official, 'onedl': onedl},
    cmdclass={'build_py': BuildWithMim},
    classifiers=[
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    zip_safe=False,
)
