"""Command lines: numbers that no command can use."""
from __future__ import annotations

import pytest

# Where 0 has a meaning, or the command says itself what it expects.
OTHER_NUMBERS = {'--local_rank', '--seed', '--seeds', '--climb-iters', '--num-train', '--num-val'}
SIZE_OF_SCENES = ('dataset_converters/draw_scenes', '--size')


def test_counts_are_positive(parser_of, repo_root) -> None:
    checked = 0
    for path in sorted((repo_root / 'tools').rglob('*.py')):
        name = str(path.relative_to(repo_root / 'tools').with_suffix(''))
        for action in parser_of(name)._actions:
            option = action.option_strings[0] if action.option_strings else action.dest
            if option not in OTHER_NUMBERS and (name, option) != SIZE_OF_SCENES:
                assert action.type is not int, f'{name} {option}'
                checked += getattr(action.type, '__name__', '') == 'positive_int'
    assert checked > 20


@pytest.mark.parametrize(('tool', 'arguments'), [
    ('make_base_masks', ['c.py', 'cams', 'out', '--threads', '0']),
    ('make_pseudo_labels', ['c.py', 'w.pth', 'out', '--batch-size', '0']),
    ('evaluate_masks', ['masks', '--gt-dir', 'masks', '--classes', 'a', '--jobs', '-1']),
    ('analysis_tools/ablation', ['c.py', 'w.pth', '--every', '0']),
    ('analysis_tools/training_time', ['c.py', '--iters', 'x']),
])
def test_message(run_tool, capsys, tool, arguments) -> None:
    assert run_tool(tool, *arguments) == 2
    *_, option, value = arguments
    assert capsys.readouterr().err.endswith(
        f'{option}: expected a whole number of at least 1, but got {value}\n')
