from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from mmseg_dhr.formats import write_features
from mmseg_dhr.models import DenseCRF, DHRPropagation
from mmseg_dhr.models.propagation import PAMR, PropagationInputs
from mmseg_dhr.models.propagation.dhr import valid_mask
from mmseg_dhr.ops import Pooled

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


def _noisy_batch() -> PropagationInputs:
    """Features in which no two ways of using them agree."""
    scene = _scene()
    generator = torch.Generator().manual_seed(1)
    base = scene['truth'].masked_fill(torch.arange(SIZE) > 27, 0)  # unequal areas, off the cells
    batch = _batch([scene], [base])
    uss, wss = (batch.uss + 2 * torch.rand(batch.uss.shape, generator=generator) for _ in range(2))
    return batch._replace(uss=uss, wss=[wss])


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

    def test_base_without_shares(self) -> None:
        batch = _batch([_scene()])._replace(base_shares=None)
        with pytest.raises(ValueError, match='Expected base_shares beside base'):
            _propagation()(batch)

    def test_seeds_at_full_resolution_keep_what_is_smaller_than_a_cell(self) -> None:
        """One pixel of class 2, off the corners of the grid that M_dh is given on."""
        scene = _scene()
        cam = torch.zeros(3, SIZE, SIZE)
        cam[0, :, :8], cam[1, 9, 13] = 1, 1
        scene.update(cam=cam, truth=torch.zeros(SIZE, SIZE, dtype=torch.long))
        batch = _batch([scene], [scene['truth']])
        keep = dict(type='DenseCRF', iterations=0)
        init = _propagation(stride=4, refine_stride=1, refine=keep).initial_mask(batch)
        assert (init[0] == 2).nonzero().tolist() == [[9, 13]]

    @pytest.mark.parametrize('refine', [None, dict(type='DenseCRF')])
    def test_no_background_where_the_image_ends_within_a_cell(self, refine: dict | None) -> None:
        """The last cell of the CAM is padding but for seven columns; nothing scores there."""
        scene = _scene()
        scene.update(cam=torch.tensor([.8, 0, 0])[:, None, None].expand(3, 2, 2).clone(),
                     image=torch.full((3, SIZE, SIZE), 99.0))
        batch = _batch([scene], tags=[(1, )])._replace(sizes=[(SIZE, 23)])
        init = _propagation(stride=1, refine=refine, steps=('seeds', )).initial_mask(batch)
        assert (init[0, :, :23] == 1).all()

    def test_all_ignore_base_with_empty_cam_is_finite(self) -> None:
        batch = _batch([_scene()])._replace(cam=torch.zeros(1, 3, 8, 8))
        result = _propagation()(batch, stages=True)
        for mask in result:
            assert mask.unique().tolist() == [0]

    @pytest.mark.parametrize(('options', 'message'), [
        (dict(merge='some'), 'merge'),
        (dict(stride=0), 'stride'),
        (dict(refine_stride=0), 'refine_stride'),
        (dict(marginal='true'), 'uniform'),
        (dict(plan='log'), 'min_max'),
        (dict(pooling='mean'), 'majority'),
        (dict(variant='group'), 'components'),
        (dict(center='batch'), 'dataset'),
        (dict(center='dataset'), 'uss_cache'),
        (dict(steps=('uss', 'crf')), 'seeds'),
    ])
    def test_errors(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            _propagation(**options)


class TestSettings:
    """Every choice of the config block does what its name says."""

    def test_without_seeds_m_init_is_m_base(self) -> None:
        scene = _scene()
        base = scene['truth'].masked_fill(scene['truth'] == 2, 0)
        batch = _batch([scene], [base])
        assert torch.equal(_propagation(steps=('uss', 'wss'))(batch).init[0], base)
        assert (_propagation()(batch).init[0] == 2).any()

    @pytest.mark.parametrize(('steps', 'stage'), [(('seeds', 'uss'), 'nearest'),
                                                  (('seeds', 'wss'), 'nearest_wss')])
    def test_one_step_without_transport_is_the_nearest_centroid(self, steps: tuple,
                                                                stage: str) -> None:
        batch = _noisy_batch()
        control = _propagation(steps=steps, transport=False)(batch, stages=True)
        stages = _propagation()(batch, stages=True, init=control.init)
        assert torch.equal(control.wss, getattr(stages, stage))

    def test_steps_alone_and_together_differ(self) -> None:
        batch = _noisy_batch()
        masks = [_propagation(steps=steps, tau=-1.0, refine=None)(batch).final
                 for steps in (('seeds', ), ('uss', ), ('wss', ), ('uss', 'wss'))]
        for i, mask in enumerate(masks):
            assert not any(torch.equal(mask, other) for other in masks[:i])

    @pytest.mark.parametrize('options', [
        dict(variant='grouped', tau=-1.0), dict(variant='components', tau=-1.0), dict(plan='raw'),
        dict(pooling='majority'), dict(relax=0.0), dict(marginal='sqrt_foreground'),
        dict(center='image')])
    def test_every_option_changes_something_and_keeps_to_the_tags(self, options: dict) -> None:
        batch = _noisy_batch()
        plain = dict(tau=0.6, refine=None)
        got, expected = (_propagation(**{**plain, **changes})(batch).final
                         for changes in (options, {}))
        assert set(got.unique().tolist()) <= {0, 1, 2}
        assert not torch.equal(got, expected)

    @pytest.mark.parametrize('options', [
        dict(refine=dict(type='PAMR', num_iters=3, dilations=(1, 2))), dict(refine_stride=1)])
    def test_refinement_comes_at_the_stride_that_is_asked_for(self, options: dict) -> None:
        batch = _noisy_batch()
        # Texture that is there at full resolution and averages out at the working grid's.
        noise = torch.rand(batch.images.shape, generator=torch.Generator().manual_seed(2))
        batch = batch._replace(images=batch.images * 0.05 + noise * 100)
        got, expected = (_propagation(**changes)(batch).final for changes in (options, {}))
        assert got.shape == expected.shape == (1, 16, 16)
        assert not torch.equal(got, expected)

    def test_fine_labels_are_read_in_the_middle_of_a_cell(self) -> None:
        scene = _scene()
        cam = torch.zeros(3, SIZE, SIZE)
        cam[0, :, 17:] = 1  # 3 of the 4 columns of the cell that starts at 16
        batch = _batch([scene], tags=[(1, )])._replace(cam=cam[None])
        propagation = _propagation(stride=4, refine_stride=1,
                                   refine=dict(type='DenseCRF', iterations=0))
        layout = propagation._layout(batch)
        scores = torch.cat([1 - cam[:1], cam[:1]])[None]
        labels = propagation._labels(batch, scores, layout, refine=True)
        assert labels[0, 0].tolist() == [0] * 4 + [1] * 4

    def test_given_shares_decide_the_areas(self) -> None:
        batch = _noisy_batch()
        propagation = _propagation(marginal='shares', refine=None)
        assert propagation.needs_shares
        with pytest.raises(ValueError, match='shares'):
            propagation(batch)
        areas = []
        for share in (0.1, 0.5):
            shares = torch.tensor([[1 - 2 * share, share, share, 0.0]])
            areas.append((propagation(batch._replace(shares=shares)).final != 0).float().mean())
        assert areas[0] < areas[1]

    def test_dataset_centre_is_the_mean_of_the_cache(self, tmp_path) -> None:
        batch = _noisy_batch()
        for i in range(2):
            write_features(tmp_path / f'{i}.safetensors', torch.full((4, 2, 3), float(i)))
        propagation = _propagation(center='dataset', uss_cache=str(tmp_path))
        uss = Pooled(batch.uss, torch.tensor([[[1.5, 0.5, 0.5, 0.5], [0.5, 1.5, 0.5, 0.5]]]),
                     torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 2), torch.zeros(1, 4))
        torch.testing.assert_close(propagation.correlation(uss), torch.eye(2)[None])

    def test_rows_with_the_same_step_1_are_told_apart(self) -> None:
        assert _propagation(tau=0.1).seed_summary() == _propagation().seed_summary()
        for options in (dict(merge='all'), dict(reg=0.2), dict(refine=None), dict(steps=())):
            assert _propagation(**options).seed_summary() != _propagation().seed_summary()


class TestPAMR:

    def test_stays_in_its_channels_and_sizes(self) -> None:
        scores = torch.rand(2, 3, 9, 11)
        used = torch.tensor([[True, True, False], [True, True, True]])
        got = PAMR(2, (1, 2))(torch.rand(2, 3, 9, 11) * 255, scores, used, [(9, 11), (5, 6)], 4)
        assert got[0, 2].abs().max() == 0
        assert got[1, :, 5:].abs().max() == 0 and got[1, :, :, 6:].abs().max() == 0

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match='dilations'):
            PAMR(dilations=())


class TestDenseCRF:

    def test_threads_give_the_same(self) -> None:
        images = torch.randint(0, 255, (3, 3, 9, 11)).float()
        scores = torch.rand(3, 2, 9, 11)
        used = torch.tensor([[True, True], [True, False], [True, True]])
        sizes = [(9, 11), (5, 5), (7, 11)]
        expected = DenseCRF(threads=1, iterations=2)(images, scores, used, sizes)
        for threads in (2, 5):  # over the images, inside each
            shared = DenseCRF(threads=threads, iterations=2)
            assert torch.equal(shared(images, scores, used, sizes), expected)
        assert expected[1, :, 5:].abs().max() == 0 and expected[1, 1].abs().max() == 0

    def test_copies_and_pickles(self) -> None:
        refiner = DenseCRF(threads=2)
        assert copy.deepcopy(refiner).params == pickle.loads(pickle.dumps(refiner)).params

    def test_unknown_setting(self) -> None:
        with pytest.raises(ValueError, match='sxy'):
            DenseCRF(sxy=3)
        with pytest.raises(ValueError, match="got 'cuda'"):
            DenseCRF(backend='cuda')
        with pytest.raises(ValueError, match='at least one thread'):
            DenseCRF(threads=0)


def test_valid_mask_by_hand() -> None:
    mask = valid_mask(torch.zeros(2, 3, 8, 8), [(8, 4), (3, 1)], (4, 4))
    assert mask[0].float().sum(0).tolist() == [4, 4, 0, 0]
    # centres at 1, 3, 5, 7: one row below 3; the first column is kept whatever the width
    assert mask[1].nonzero().tolist() == [[0, 0]]
