from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_dhr.models import BoundaryAffinityHead, FeatureAffinityHead
from mmseg_dhr.ops import affinity_from_boundary, affinity_losses, neighbour_offsets, random_walk
from mmseg_dhr.utils import UserError

BACKBONE = dict(type='ResNetV1c', depth=18, base_channels=8, stem_channels=8,
                strides=(1, 2, 1, 1), dilations=(1, 1, 1, 2), norm_cfg=dict(type='BN'))
FEATURES = dict(type='FeatureAffinityHead', in_channels=(16, 32, 64), channels=(4, 4, 8))
BOUNDARY = dict(type='BoundaryAffinityHead', in_channels=(8, 16, 32, 64), channels=8)
HEADS = dict(features=FEATURES, boundary=BOUNDARY)


@pytest.fixture
def build(mmseg_modules: None) -> Any:
    """Builds a small network with random weights."""

    def network(head: dict, **options: Any) -> Any:
        torch.manual_seed(0)
        preprocessor = dict(type='SegDataPreProcessor', mean=[100.0, 110.0, 120.0],
                            std=[50.0, 60.0, 70.0], bgr_to_rgb=True, pad_val=0, seg_pad_val=255,
                            size=(48, 48))
        return MODELS.build(dict(type='AffinityNetwork', backbone=BACKBONE, affinity_head=head,
                                 data_preprocessor=preprocessor, **options))

    return network


def samples(labels: torch.Tensor) -> list[SegDataSample]:
    made = []
    for label in labels:
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=label[None])
        made.append(sample)
    return made


class TestHeads:

    def test_paper_channels(self) -> None:
        head = FeatureAffinityHead()
        shapes = [tuple(p.shape) for name, p in head.named_parameters() if 'weight' in name]
        assert shapes == [(64, 512, 1, 1), (128, 1024, 1, 1), (256, 4096, 1, 1), (448, 448, 1, 1)]
        assert isinstance(head.fuse.activate, torch.nn.ELU)

    def test_all_levels_on_one_grid(self) -> None:
        head = BoundaryAffinityHead((4, 8), channels=4, grid_index=1)
        boundary = head([torch.randn(1, 4, 10, 14), torch.randn(1, 8, 5, 7)])
        assert boundary.shape == (1, 1, 5, 7) and 0 < boundary.min() <= boundary.max() < 1

    def test_chosen_levels(self) -> None:
        head = FeatureAffinityHead((4, ), (4, ), in_indices=(1, ))
        assert head([torch.randn(1, 9, 8, 8), torch.randn(1, 4, 3, 5)]).shape == (1, 4, 3, 5)

    def test_boundary_weakens_sources(self) -> None:
        head = BoundaryAffinityHead((4, ), channels=4)
        boundary = torch.rand(1, 1, 5, 6, generator=torch.Generator().manual_seed(0))
        values, sources = head.affinity(boundary, 3)
        torch.testing.assert_close(values, affinity_from_boundary(boundary[:, 0], 3))
        torch.testing.assert_close(sources, 1 - boundary)

    @pytest.mark.parametrize('lengths', [((4, 8), (4, ), None), ((), (), None),
                                         ((4, ), (4, ), (0, 1))])
    def test_length_error(self, lengths: tuple) -> None:
        with pytest.raises(ValueError, match='of one length'):
            FeatureAffinityHead(lengths[0], lengths[1], in_indices=lengths[2])


class TestNetwork:

    @pytest.mark.parametrize('kind', HEADS)
    def test_loss_is_that_of_the_labels_on_the_grid(self, build: Any, kind: str) -> None:
        model = build(HEADS[kind], train_radius=3).eval()
        inputs = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
        labels = torch.randint(0, 3, (2, 48, 48), generator=torch.Generator().manual_seed(2))
        labels[:, :9] = 255
        losses = model(inputs, samples(labels), mode='loss')
        values = model.affinity(inputs, 3).values
        stride = 48 // values.shape[-1]
        assert stride == (8 if kind == 'features' else 4)
        middle = labels[:, stride // 2::stride, stride // 2::stride]
        expected = affinity_losses(values, middle, neighbour_offsets(3))
        torch.testing.assert_close(losses['loss_affinity'], expected.total)
        torch.testing.assert_close(losses['negative'], expected.negative.detach())

    @pytest.mark.parametrize('frozen', [False, True])
    @pytest.mark.parametrize('kind', HEADS)
    def test_learns_where_two_colours_meet(self, build: Any, kind: str, frozen: bool) -> None:
        model = build(HEADS[kind], freeze_backbone=frozen)
        before = {name: p.clone() for name, p in model.backbone.state_dict().items()}
        image = torch.zeros(2, 3, 48, 48, dtype=torch.uint8)
        labels = torch.zeros(2, 48, 48, dtype=torch.long)
        for row, column in enumerate((16, 32)):
            image[row, :, :, column:] = 200
            labels[row, :, column:] = 1
        optim = build_optim_wrapper(model, dict(
            type='OptimWrapper', optimizer=dict(type='Adam', lr=0.02)))
        data = dict(inputs=list(image), data_samples=samples(labels))
        logs = [model.train_step(data, optim)['loss'].item() for _ in range(25)]
        assert logs[-1] < 0.6 * logs[0]
        same = all(torch.equal(p, before[name])
                   for name, p in model.backbone.state_dict().items())
        assert same == frozen

    def test_unknown_labels_teach_nothing(self, build: Any) -> None:
        model = build(FEATURES)
        loss = model(torch.randn(1, 3, 48, 48), samples(torch.full((1, 48, 48), 255)), mode='loss')
        assert loss['loss_affinity'].item() == 0
        loss['loss_affinity'].backward()

    def test_walk(self, build: Any) -> None:
        model = build(BOUNDARY).eval()
        inputs = model.rgb_to_inputs(torch.randint(0, 255, (2, 3, 40, 56)))
        scores = torch.rand(2, 3, 20, 28)
        walked = model.walk(inputs, scores, beta=4, num_steps=3, radius=3)
        values, sources = model.affinity(inputs, 3)
        assert walked.shape == (2, 3, *values.shape[-2:]) == (2, 3, 10, 14)
        start = torch.nn.functional.interpolate(scores, (10, 14), mode='bilinear', antialias=True)
        torch.testing.assert_close(
            walked, random_walk(start * sources, values, neighbour_offsets(3), 4, 3))

    def test_rgb_to_inputs_is_the_preprocessor(self, build: Any) -> None:
        model = build(FEATURES)
        rgb = torch.randint(0, 255, (1, 3, 48, 48), dtype=torch.uint8)
        data = model.data_preprocessor(dict(inputs=[rgb[0].flip(0)], data_samples=None))
        torch.testing.assert_close(model.rgb_to_inputs(rgb), data['inputs'])

    def test_errors(self, build: Any, mmseg_modules: None) -> None:
        model = build(FEATURES)
        with pytest.raises(UserError, match='gt_sem_seg'):
            model(torch.randn(1, 3, 48, 48), [SegDataSample()], mode='loss')
        with pytest.raises(ValueError, match='make_affinity_masks'):
            model(torch.randn(1, 3, 48, 48), mode='predict')
        with pytest.raises(UserError, match='`mean`'):
            MODELS.build(dict(type='AffinityNetwork', backbone=BACKBONE, affinity_head=FEATURES,
                              data_preprocessor=dict(type='SegDataPreProcessor')))
