"""The benchmark command on tiny images. No time is asserted."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

QUICK = ('--images', '1', '--size', '64', '--classes', '2', '3', '--scales', '1', '--batches', '1',
         '--repeats', '1')


def refuse(text: str) -> None:
    raise AssertionError(f'{text} is no JSON')


@pytest.mark.parametrize('data', [False, True])
def test_operators(run_tool, voc_dir, capsys, data: bool) -> None:
    given = ('--data', voc_dir) if data else ()
    assert run_tool('analysis_tools/benchmark', '--suite', 'crf', 'ot', 'walk', *QUICK, *given,
                    '--json', 'out/speed.json') == 0
    found = json.loads(Path('out/speed.json').read_text(), parse_constant=refuse)
    settings, rows = found['settings'], found['figures']
    assert settings['data'] == (str(voc_dir) if data else 'embedded scenes')
    assert settings['cpu'] and settings['torch'] and settings['pydensecrf2']
    assert settings['clock'] == 'wall clock' and settings['seed'] == 0
    assert {row['suite'] for row in rows} == {'crf', 'ot', 'walk'}
    assert rows[0]['pixels'] == (40 * 56 if data else 64 * 64) and rows[0]['classes'] == 2
    assert rows[0]['ratio']['low'] <= rows[0]['ratio']['median'] <= rows[0]['ratio']['high']
    output = capsys.readouterr().out
    assert 'seed 0' in output and f'{rows[0]["ours_ms"]:.4g}' in output
    lines = output.splitlines()
    for row in rows:
        assert any(line.startswith(f'{row["what"]} ') for line in lines)
    assert Path('out/speed.txt').read_text().strip() in output


def test_errors(run_tool, capsys) -> None:
    for arguments, message in [
        (('--data', 'nowhere'), 'nowhere: no such folder of photos'),
        (('--classes', '1'), '--classes at least 2'),
        (('--scales', '0'), '--scales must be above 0'),
        (('--images', '0'), 'expected a whole number of at least 1'),
        (('--checkpoint', 'x.pth'), 'need --config'),
        (('--device', 'cuda', '--cpu-time'), 'counts nothing of what a GPU does'),
        (('--suite', 'train', '--config', 'absent.py'), 'absent.py: no such config file'),
    ]:
        assert run_tool('analysis_tools/benchmark', '--suite', 'crf', *arguments) == 2
        assert message in capsys.readouterr().err


def test_scenes_for_a_network(load_tool, tmp_path, monkeypatch) -> None:
    tool = load_tool('analysis_tools/benchmark')
    monkeypatch.setattr('sys.argv', ['benchmark', '--images', '2'])
    config = tool.config_of(tool.parse_args(), str(tmp_path))
    dataset = config.pseudo_label_dataset.dataset
    assert dataset.num_train == 2 and Path(dataset.data_root).parent == tmp_path
    assert config.train_dataloader.dataset.dataset.data_root == dataset.data_root
    assert config.work_dir == str(tmp_path)
