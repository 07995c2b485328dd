"""Work beside the caller's, and M_dh that is made so."""
from __future__ import annotations

import copy
import gc
import threading
import weakref
from contextlib import nullcontext

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_dhr.models.propagation import beside
from mmseg_dhr.models.propagation.beside import run_beside
from mmseg_dhr.models.propagation.dhr import PropagationResult

CPU = torch.device('cpu')
SECONDS = 60  # far more than anything here takes


class TestRunBeside:

    def test_the_caller_goes_on(self) -> None:
        started, caller = threading.Event(), threading.Event()

        def work():
            started.set()
            return caller.wait(SECONDS)

        result = run_beside(work, CPU)
        assert started.wait(SECONDS)
        caller.set()  # nobody would, if the caller waited
        assert result() is True and result() is True

    def test_errors_come_with_the_result(self) -> None:
        result = run_beside(lambda: [][1], CPU)
        for _ in range(2):
            with pytest.raises(IndexError):
                result()

    def test_no_gradients_and_the_callers_threads(self) -> None:
        weight = torch.ones(2, requires_grad=True)
        found, threads = run_beside(lambda: (weight * 2, torch.get_num_threads()), CPU)()
        assert not found.requires_grad and torch.is_grad_enabled()
        assert threads == torch.get_num_threads()

    def test_keeps_what_is_read_as_long_as_the_result(self) -> None:
        tensor = torch.ones(3)
        seen = weakref.ref(tensor)
        result = run_beside(lambda tensor=tensor: tensor.sum().item(), CPU)
        del tensor
        assert result() == 3
        gc.collect()
        assert seen() is not None
        del result
        gc.collect()
        assert seen() is None

    def test_streams_wait_for_each_other(self, monkeypatch) -> None:
        """The order that makes it right on a GPU, on a CUDA that writes down what it is asked."""
        notes = []

        class Stream:

            def __init__(self, name):
                self.name = name

            def wait_stream(self, other):
                notes.append(f'{self.name} waits for {other.name}')

        side = Stream('side')
        monkeypatch.setattr(beside, '_side_stream', lambda device: side)
        monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: Stream('main'))
        monkeypatch.setattr(torch.cuda, 'stream',
                            lambda stream: notes.append(f'on {stream.name}') or nullcontext())
        result = run_beside(lambda: notes.append('work'), torch.device('cuda', 0))
        result()
        assert notes == ['side waits for main', 'on side', 'work', 'main waits for side']

    @pytest.mark.skipif(not torch.cuda.is_available(), reason='a GPU is needed')
    def test_on_a_gpu(self) -> None:
        device = torch.device('cuda', 0)
        matrix = torch.rand(2000, 2000, device=device)
        expected = (matrix @ matrix).sum(1)
        for _ in range(20):
            late = (matrix * 2) / 2  # still to be computed
            result = run_beside(lambda late=late: (late @ late).sum(1), device)
            del late
            torch.rand(2000, 2000, device=device)  # would take its memory
            torch.testing.assert_close(result(), expected)


@pytest.mark.usefixtures('mmseg_modules')
class TestOverlap:

    @pytest.fixture
    def models(self, tiny_model):
        """Two equal models; the second makes M_dh beside its decode head."""

        def make(**options):
            torch.manual_seed(0)
            plain = MODELS.build(tiny_model(num_classes=4, size=(32, 32), **options)).train()
            late = copy.deepcopy(plain)
            late.overlap = True
            return plain, late

        return make

    def batch(self, model):
        rng = torch.Generator().manual_seed(1)
        samples = []
        for tags in ((1, ), (1, 3)):
            sample = SegDataSample(metainfo=dict(
                image_labels=tags, img_shape=(32, 32), base_shares=None))
            sample.gt_sem_seg = PixelData(data=torch.randint(0, 2, (1, 32, 32), generator=rng))
            samples.append(sample)
        images = [torch.randint(0, 256, (3, 32, 32), generator=rng, dtype=torch.uint8)
                  for _ in samples]
        data = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
        return data['inputs'], data['data_samples']

    @pytest.mark.parametrize('amp', [False, True])
    @pytest.mark.parametrize('teacher', [False, True])
    @pytest.mark.parametrize('marginal', ['sqrt_area', 'shares'])
    def test_same_losses_and_gradients(self, models, marginal, teacher, amp) -> None:
        both = models(propagation=dict(type='DHRPropagation', num_classes=4, stride=2,
                                       marginal=marginal))
        losses = []
        for model in both:
            if teacher:
                other = copy.deepcopy(both[0])
                for parameter in other.parameters():
                    parameter.data.mul_(1.5).add_(.02)
                model.set_teacher(other)
            with torch.autocast('cpu', torch.bfloat16, enabled=amp):
                losses.append(model.loss(*self.batch(model)))
            sum(value for name, value in losses[-1].items() if 'loss' in name).backward()
        assert list(losses[0]) == list(losses[1])
        assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
        for a, b in zip(both[0].parameters(), both[1].parameters(), strict=True):
            assert torch.equal(a.grad, b.grad)

    def test_the_head_runs_meanwhile(self, models) -> None:
        """M_dh is ready only after the decode head has run forward."""
        _, model = models()
        ran = threading.Event()
        model.decode_head.conv_seg.register_forward_hook(lambda *_: ran.set())
        final = torch.zeros(2, 16, 16, dtype=torch.long)

        def propagation(batch):
            assert ran.wait(SECONDS)
            return PropagationResult(final, final)

        model.propagation = propagation
        losses = model.loss(*self.batch(model))
        assert losses['dhr/background'] == 1

    def test_only_on_request(self, models, monkeypatch) -> None:
        asked = []
        monkeypatch.setattr('mmseg_dhr.models.segmentors.dual_encoder.run_beside',
                            lambda make, device: asked.append(device) or make)
        for model in models():
            model.loss(*self.batch(model))
        assert asked == [CPU]  # of the second

    def test_errors_reach_the_training(self, models) -> None:
        _, model = models()
        model.propagation = lambda batch: [][1]
        with pytest.raises(IndexError):
            model.loss(*self.batch(model))
