from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from mmseg_dhr.utils import throughput
from mmseg_dhr.utils.throughput import Throughput, peak_memory


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Replaces the clock by what is last in a list, and the memory by a constant."""
    now = [100.]
    monkeypatch.setattr(throughput.time, 'perf_counter', lambda: now[-1])
    monkeypatch.setattr(throughput, 'peak_memory', lambda: '1.25 GiB')
    return now


@pytest.mark.parametrize(('counts', 'expected'), [
    ((40, ), 'CAMs: 40 images, 0.80 images/s, peak memory 1.25 GiB'),
    ((40, 2), 'CAMs: 40 images (2 more were there), 0.80 images/s, peak memory 1.25 GiB'),
    ((0, 42), 'CAMs: 0 images (42 more were there), peak memory 1.25 GiB'),
])
def test_line(clock, counts, expected) -> None:
    counter = Throughput()
    clock.append(150.)
    assert counter.line('CAMs', *counts) == expected


def test_no_time_at_all(clock) -> None:
    assert '3 images, ' in Throughput().line('CAMs', 3)


def test_peak_is_of_the_process() -> None:
    """Some 300 MiB count also after they were given back."""
    program = """
import runpy, sys
peak_memory = runpy.run_path(sys.argv[1])['peak_memory']
print(peak_memory())
bytes(bytearray(300 * 2**20))
print(peak_memory())
"""
    done = subprocess.run([sys.executable, '-c', program, throughput.__file__],
                          capture_output=True, text=True, check=True)
    before, after = (float(re.fullmatch(r'(\d+\.\d\d) GiB', line)[1])
                     for line in done.stdout.split('\n')[:2])
    assert .28 < after - before < .7


def test_peak_of_the_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda: 3 * 2**29)
    assert peak_memory().endswith(' GiB and 1.50 GiB on the GPU')
    monkeypatch.setattr(throughput, 'resource', None)
    assert peak_memory() == '1.50 GiB on the GPU'
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: False)
    assert peak_memory() == 'unknown'
