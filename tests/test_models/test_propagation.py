from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from mmseg_dhr.models import DenseCRF, DHRPropagation
from mmseg_dhr.models.propagation import PropagationInputs
from mmseg_dhr.models.propagation.dhr import valid_mask

SIZE = 32


def _scene(left: int = 1, right: int = 2, size: int = SIZE) -> dict:
    """Class `left` on the left third, `right` on the right third, background between."""
    third = size // 3
    truth = torch.zeros(size, size, dtype=torch.long)
    truth[:, :third] = left
    truth[:, -third:] = right
    colours = torch.tensor([[90.0, 90, 90], [220, 40, 40], [40, 40, 220], [40, 220, 40]])
    image = colours[truth].permute(2, 0, 1) + torch.randn(
        3, size, size, generator=torch.Generator().manual_seed(0)) * 3
    cam = torch.zeros(3, size // 4, size // 4)  # peaks inside each object
    cam[left - 1, :, :third // 8 + 1] = 1
    cam[right - 1, :, -(third // 8 + 1):] = 1
    one_hot = torch.nn.functional.one_hot(truth, 4).permute(2, 0, 1).float()
    features = torch.nn.functional.avg_pool2d(one_hot[None], 4)[0]
    return dict(truth=truth, image=image, cam=cam, features=features)


def _batch(scenes: list[dict], bases: list[torch.Tensor | None] | None = None,
           tags: list[tuple[int, ...]] | None = None) -> PropagationInputs:
    bases = bases or [None] * len(scenes)
    shares = [None if b is None else
              np.bincount(b[b < 255].numpy().ravel(), minlength=4).astype(np.float32) / b.numel()
              for b in bases]
    masks = torch.stack([torch.full((SIZE, SIZE), 255) if b is None else b for b in bases])
    features = torch.stack([s['features'] for s in scenes])
    return PropagationInputs(
        images=torch.stack([s['image'] for s in scenes]),
        sizes=[(SIZE, SIZE)] * len(scenes),
        tags=tags or [(1, 2)] * len(scenes),
        cam=torch.stack([s['cam'] for s in scenes]),
        uss=features, wss=[features], base=masks, base_shares=shares)


def _propagation(**options) -> DHRPropagation:
    return DHRPropagation(**{**dict(num_classes=4, stride=2), **options})


class TestDHRPropagation:

    def test_from_tags_alone_finds_the_objects(self) -> None:
        scene = _scene()
        result = _propagation()(_batch([scene]), stages=True)
        assert result.final.shape == (1, 16, 16)
        agreement = (result.final[0] == scene['truth'][::2, ::2]).float().mean()
        assert agreement > 0.9

    def test_vanished_class_comes_back_and_others_stay(self) -> None:
        scene = _scene()
        base = scene['truth'].clone()
        base[base == 2] = 0  # M_base lost class 2
        init = _propagation()(_batch([scene], [base])).init[0]
        assert (init == 2).any()
        assert torch.equal(init == 1, base == 1)

    def test_nothing_lost_leaves_m_base_alone(self) -> None:
        scene = _scene()
        init = _propagation()(_batch([scene], [scene['truth']])).init[0]
        assert torch.equal(init, scene['truth'])

    def test_merge_all_lets_seeds_overwrite(self) -> None:
        scene = _scene()
        swapped = scene['truth'].clone()
        swapped[scene['truth'] == 1] = 2
        swapped[scene['truth'] == 2] = 1
        init = _propagation(merge='all')(_batch([scene], [swapped])).init[0]
        assert (init == scene['truth']).float().mean() > (swapped == scene['truth']).float().mean()

    def test_batch_equals_one_by_one(self) -> None:
        scenes = [_scene(), _scene(3, 1), _scene(2, 3)]
        tags = [(1, 2), (1, 3), (2, )]
        lost = scenes[2]['truth'].masked_fill(scenes[2]['truth'] == 2, 0)
        bases = [scenes[0]['truth'], None, lost]
        together = _propagation()(_batch(scenes, bases, tags))
        for i in range(3):
            alone = _propagation()(_batch(scenes[i:i + 1], bases[i:i + 1], tags[i:i + 1]))
            assert torch.equal(together.final[i], alone.final[0])
            assert torch.equal(together.init[i], alone.init[0])

    def test_only_tags_and_background_appear(self) -> None:
        result = _propagation()(_batch([_scene()], tags=[(2, )]))
        assert set(result.final.unique().tolist()) <= {0, 2}

    def test_no_tag_is_all_background(self) -> None:
        result = _propagation()(_batch([_scene()], tags=[()]))
        assert result.final.unique().tolist() == [0]

    def test_no_tag_and_no_background_is_all_ignore(self) -> None:
        batch = _batch([_scene()], tags=[()])._replace(cam=torch.zeros(1, 4, 8, 8))
        result = _propagation(background_index=None)(batch)
        assert result.final.unique().tolist() == [255]

    def test_padding_is_ignored_and_changes_nothing(self) -> None:
        scene = _scene()
        batch = _batch([scene], [scene['truth']])
        expected = _propagation(refine=None)(batch).final[0]
        wide = batch._replace(
            images=torch.nn.functional.pad(batch.images, (0, 16, 0, 8)),
            base=torch.nn.functional.pad(batch.base, (0, 16, 0, 8), value=255),
            cam=torch.nn.functional.pad(batch.cam, (0, 4, 0, 2), value=9.0),
            uss=torch.nn.functional.pad(batch.uss, (0, 4, 0, 2), value=9.0),
            wss=[torch.nn.functional.pad(batch.wss[0], (0, 4, 0, 2), value=9.0)])
        got = _propagation(refine=None)(wide).final[0]
        assert (got[16:] == 255).all() and (got[:, 16:] == 255).all()
        # Only the last cells before the border may feel the padding, through interpolation.
        assert torch.equal(got[:14, :14], expected[:14, :14])

    def test_all_ignore_base_with_empty_cam_is_finite(self) -> None:
        batch = _batch([_scene()])._replace(cam=torch.zeros(1, 3, 8, 8))
        result = _propagation()(batch, stages=True)
        for mask in result:
            assert set(mask.unique().tolist()) <= {0, 1, 2, 255}

    @pytest.mark.parametrize(('options', 'message'), [
        (dict(merge='some'), "'vanished' or 'all'"),
        (dict(stride=0), 'stride'),
        (dict(marginal='true'), 'uniform'),
    ])
    def test_errors(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            _propagation(**options)


class TestDenseCRF:

    def test_processes_give_the_same(self) -> None:
        images = torch.randint(0, 255, (3, 3, 9, 11)).float()
        scores = torch.rand(3, 2, 9, 11)
        used = torch.tensor([[True, True], [True, False], [True, True]])
        sizes = [(9, 11), (5, 5), (7, 11)]
        alone, shared = DenseCRF(iterations=2), DenseCRF(workers=1, iterations=2)
        expected = alone(images, scores, used, sizes)
        assert torch.equal(shared(images, scores, used, sizes), expected)
        assert expected[1, :, 5:].abs().max() == 0 and expected[1, 1].abs().max() == 0

    def test_copies_and_pickles(self) -> None:
        refiner = DenseCRF(workers=1)
        assert copy.deepcopy(refiner).params == pickle.loads(pickle.dumps(refiner)).params

    def test_unknown_setting(self) -> None:
        with pytest.raises(ValueError, match='sxy'):
            DenseCRF(sxy=3)


def test_valid_mask_by_hand() -> None:
    mask = valid_mask(torch.zeros(2, 3, 8, 8), [(8, 4), (3, 1)], (4, 4))
    assert mask[0].float().sum(0).tolist() == [4, 4, 0, 0]
    # centres at 1, 3, 5, 7: one row below 3; the first column is kept whatever the width
    assert mask[1].nonzero().tolist() == [[0, 0]]
