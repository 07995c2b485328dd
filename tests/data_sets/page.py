"""The commands of docs/en/datasets.md."""
from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def read_page(repo_root: Path) -> str:
    """The page."""
    return (repo_root / 'docs/en/datasets.md').read_text(encoding='utf-8')


def commands_of(repo_root: Path, title: str) -> list[list[str]]:
    """The commands in a section of the page, in words, without ``python tools/`` and ``.py``."""
    section = re.split(r'^## ', read_page(repo_root).split(f'## {title}\n')[1],
                       flags=re.MULTILINE)[0]
    lines = ''.join(re.findall(r'```bash\n(.*?)```', section, re.DOTALL)).splitlines()
    assert lines and all(line.startswith('python tools/') for line in lines)
    words = [shlex.split(line.removeprefix('python tools/')) for line in lines]
    return [[tool.removesuffix('.py'), *rest] for tool, *rest in words]


def run_commands(commands: Sequence[Sequence[str]], run_tool: Callable, repo_root: Path,
                 options: Mapping[str, Sequence[str]]) -> None:
    """Run commands with more options for some tools; the configs are those of the repository."""
    for tool, *arguments in commands:
        arguments = [str(repo_root / word) if word.startswith('configs/') else word
                     for word in arguments]
        assert run_tool(tool, *arguments, *options.get(tool, ())) == 0, tool
