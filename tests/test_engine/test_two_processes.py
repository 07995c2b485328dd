"""What processes that train together must have in common; gloo, on the CPU."""
from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = '''
import torch
import torch.distributed as dist
from torch import nn

from mmseg_dhr.engine import RecursiveLearningHook
from mmseg_dhr.models.uss.training import ClusterProbe


def assert_common(tensor, before):
    """Both processes have what the first one had."""
    found = [torch.zeros_like(tensor) for _ in range(2)]
    dist.all_gather(found, tensor)
    assert torch.equal(*found)
    assert torch.equal(tensor, before) == (dist.get_rank() == 0)


dist.init_process_group('gloo')
torch.manual_seed(dist.get_rank())

network = nn.BatchNorm2d(3)
network(torch.randn(2, 3, 4, 4))
before = network.running_mean.clone()
hook = RecursiveLearningHook()
hook._source = network
hook._share_statistics()
assert_common(network.running_mean, before)

probe, points = ClusterProbe(4, 3), torch.randn(2, 4, 5, 5)
torch.manual_seed(dist.get_rank())
chosen = points.transpose(0, 1).flatten(1).t()[torch.randperm(50)[:3]]
torch.manual_seed(dist.get_rank())
probe._place(points)
assert_common(probe.centres.data, nn.functional.normalize(chosen, dim=1))

dist.destroy_process_group()  # its threads, at the end of the interpreter, may abort the process
'''


def test_masks_and_clusters_are_those_of_one_network(tmp_path, repo_root) -> None:
    (tmp_path / 'script.py').write_text(SCRIPT)
    environment = {**os.environ, 'PYTHONPATH': str(repo_root), 'CUDA_VISIBLE_DEVICES': '',
                   'OMP_NUM_THREADS': '1'}
    command = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', 'script.py']
    run = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, text=True,
                         capture_output=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
