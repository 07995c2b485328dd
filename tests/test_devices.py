"""What would go wrong on a GPU, or wait for it: see pretend_device.py. No GPU is needed."""
from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_dhr import ops
from mmseg_dhr.models.propagation.dhr import DHRPropagation, PropagationInputs
from tests.pretend_device import PretendDevice, values

Put = Callable[[Tensor], Tensor]
SIZES = [(32, 32), (30, 28)]
UNIQUE = '_unique2'  # how many vertices a lattice has
CONVERGED = 'optimal_transport.py'  # asked after the second step, then every fourth


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def compare(run: Callable[[Put], object]) -> list[str]:
    """Check that both devices give the same; the times that the host had to wait."""
    expected = run(lambda tensor: tensor)
    with PretendDevice() as device:
        found = run(device.put)
    for a, b in zip(values(found), values(expected), strict=True):
        torch.testing.assert_close(a, b)
    return device.waits


class TestPretendDevice:

    @pytest.mark.parametrize(('wait', 'operation'), [
        (lambda x: x.sum().item(), '_local_scalar_dense'), (lambda x: x.tolist(), '_to_copy'),
        (lambda x: bool(x.any()), '_local_scalar_dense'), (lambda x: x.cpu() + 1, '_to_copy'),
        (lambda x: x[x > 0], 'index'), (lambda x: x.nonzero(), 'nonzero'),
        (lambda x: torch.unique(x), UNIQUE), (lambda x: torch.zeros(3).copy_(x), 'copy_'),
    ])
    def test_waits_are_noted(self, wait, operation):
        with PretendDevice() as device:
            wait(device.put(torch.ones(3)))
        (noted, ) = device.waits
        assert f'aten.{operation}.' in noted

    def test_two_devices_do_not_mix(self):
        with PretendDevice() as device, pytest.raises(RuntimeError, match='one device.*(3,)'):
            device.put(torch.ones(3)) + torch.ones(3)

    def test_the_same_values(self):
        def run(put):
            x = put(torch.arange(6.).view(2, 3))
            x[[1, 0], 1:] += torch.tensor([1., 2.], device=x.device)
            x[:, 0] = 7
            x.view(-1)[2:4].mul_(3)
            return x, x.sum(1), x.new_zeros(2), torch.ones(2, device=x.device) - x[:, 1]
        assert compare(run) == []


@pytest.mark.parametrize('backend', ['torch', 'auto'])
def test_dense_crf(backend):
    """`auto` copies nothing to the CPU, where other backends work."""
    images, probs = torch.rand(2, 3, 32, 32) * 255, torch.rand(2, 3, 32, 32)
    mask = torch.tensor([[True] * 3, [True, True, False]])  # stays on the CPU
    with PretendDevice() as device:
        found = ops.dense_crf_batch(device.put(images), device.put(probs), mask, SIZES,
                                    backend=backend)
    expected = ops.dense_crf_batch(images, probs, mask, SIZES, backend='torch')
    torch.testing.assert_close(next(values(found)), expected)
    assert [UNIQUE in wait for wait in device.waits] == [True]


OFFSETS = ops.neighbour_offsets(3)


@pytest.mark.parametrize('run', [
    lambda put: ops.sinkhorn(put(torch.rand(2, 3, 64)), num_iters=5, relax=.1),
    lambda put: ops.pamr(put(torch.rand(2, 3, 8, 8)), put(torch.rand(2, 3, 8, 8)),
                         put(torch.ones(2, 8, 8) > 0)),
    lambda put: ops.random_walk(put(torch.rand(2, 3, 8, 8)),
                                ops.affinity_from_features(put(torch.rand(2, 4, 8, 8)), 3),
                                OFFSETS, num_steps=4),
    lambda put: ops.two_stage_walk(put(torch.rand(2, 3, 8, 8)),
                                   ops.affinity_from_boundary(put(torch.rand(2, 8, 8)), 3),
                                   OFFSETS, put(torch.rand(2, 8, 8) > .5), num_steps=4),
    lambda put: ops.affinity_losses(put(torch.rand(2, len(OFFSETS), 8, 8)),
                                    put(torch.randint(0, 3, (2, 8, 8))), OFFSETS),
    lambda put: ops.boundary_loss(put(torch.rand(2, 8, 8)), *map(put, torch.rand(3, 2, 8, 8) > .5)),
    lambda put: ops.fuse_cams([put(torch.rand(2, 3, 8, 8)), put(torch.rand(2, 3, 4, 4))],
                              [False, True], (16, 16), put(torch.ones(2, 3))),
], ids=['sinkhorn stopped early', 'pamr', 'random_walk', 'two_stage_walk',
        'affinity_losses', 'boundary_loss', 'fuse_cams'])
def test_operators_do_not_wait(run):
    def seeded(put):
        torch.manual_seed(0)
        return run(put)
    assert compare(seeded) == []


@pytest.mark.parametrize('relax', [None, .1])
def test_transport_rarely_asks(relax):
    scores = torch.rand(2, 3, 64)
    waits = compare(lambda put: ops.sinkhorn(put(scores), relax=relax))
    assert 1 <= len(waits) <= 3 and all(CONVERGED in wait for wait in waits)


@pytest.mark.parametrize('base', [True, False])
@pytest.mark.parametrize('options', [
    dict(), dict(marginal='uniform', relax=None), dict(variant='components', center='image'),
    dict(variant='grouped', pooling='majority', merge='all'), dict(transport=False),
    dict(refine=dict(type='PAMR')), dict(refine=dict(type='DenseCRF', backend='torch')),
], ids=str)
def test_propagation_waits_for_lattices_and_convergence_alone(options, base):
    propagation = DHRPropagation(5, stride=2, **{'refine': None, **options})
    images, mask = torch.rand(2, 3, 32, 32) * 255, torch.randint(0, 3, (2, 32, 32))
    cam, uss, wss = torch.rand(2, 4, 8, 8), torch.rand(2, 6, 8, 8), torch.rand(2, 7, 4, 4)
    shares = [np.array(share, np.float32) for share in ([.4, .3, .3, 0, 0], [.5, .5, 0, 0, 0])]

    def run(put):
        return tuple(propagation(PropagationInputs(
            put(images), SIZES, [(1, 2), (3, )], put(cam), put(uss), [put(wss)],
            put(mask) if base else None, shares if base else None)))

    waits = compare(run)
    crfs = 2 if options.get('refine', {}).get('type') == 'DenseCRF' else 0
    ours = [wait for wait in waits if CONVERGED not in wait]
    assert [UNIQUE in wait for wait in ours] == [True] * crfs


@pytest.mark.parametrize('phase', ['online', 'given'])
def test_an_iteration(tiny_model, mmseg_modules, phase):
    """Forward and backward. MMSegmentation waits on its own for the accuracy that it logs."""
    config = tiny_model(num_classes=5, size=(32, 32), propagation=dict(
        type='DHRPropagation', num_classes=5, stride=2, marginal='shares',
        refine=dict(type='DenseCRF', backend='torch')))
    model = MODELS.build(config).train()
    moved = copy.deepcopy(model)
    inputs, masks = 3 * torch.rand(2, 3, 32, 32) - 1.5, torch.randint(0, 3, (2, 1, 32, 32))

    def loss(model, put):
        model.set_phase(phase)
        samples = [SegDataSample(metainfo=dict(
            image_labels=tags, img_shape=size, base_shares=None))
                   for tags, size in zip([(1, 2), (3, )], SIZES, strict=True)]
        for sample, mask in zip(samples, masks, strict=True):
            sample.gt_sem_seg = PixelData(data=put(mask))
        losses = model.loss(put(inputs), samples)
        sum(value.sum() for name, value in losses.items() if 'loss' in name).backward()
        return losses

    expected = loss(model, lambda tensor: tensor)
    with PretendDevice() as device:
        device.put_module(moved)
        found = loss(moved, device.put)
    assert found.keys() == expected.keys()
    for a, b in zip(values(found), values(expected), strict=True):
        torch.testing.assert_close(a, b.detach())
    for a, b in zip(moved.parameters(), model.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if b.grad is not None:
            torch.testing.assert_close(next(values(a.grad)), b.grad)
    ours = [wait for wait in device.waits if 'dual_encoder' not in wait and CONVERGED not in wait]
    assert [UNIQUE in wait for wait in ours] == [True] * (2 if phase == 'online' else 0)
