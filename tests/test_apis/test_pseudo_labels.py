from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_dhr.apis import STAGES, list_photos, pseudo_label_stages, write_pseudo_labels
from mmseg_dhr.apis.pseudo_labels import SHARES_NAME, collate, read_shares
from mmseg_dhr.formats import Manifest, read_mask, write_mask
from mmseg_dhr.utils import UserError

ALL = list(range(6))


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob('*.png'))}


class TestStages:

    def test_without_m_base(self, model, scenes) -> None:
        stages = dict(pseudo_label_stages(model, scenes, [4, 1]))
        assert list(stages) == [4, 1]
        for index, masks in stages.items():
            assert set(masks) == set(STAGES) - {'base'}
            for mask in masks.values():
                assert mask.shape == (64, 64) and mask.dtype == np.uint8
                assert set(np.unique(mask)) <= {0, *scenes.image_labels(index), 255}

    def test_with_m_base(self, model, scenes_with_base, scenes_root) -> None:
        dataset = scenes_with_base()
        for index, masks in pseudo_label_stages(model, dataset, ALL[:2]):
            assert list(masks) == list(STAGES)
            truth = read_mask(scenes_root / f'SegmentationClass/{dataset.image_ids[index]}.png')
            assert np.array_equal(masks['base'], truth)
            # every tag is in this M_base: nothing was lost, nothing is added
            assert np.array_equal(masks['init'], truth)

    def test_batches_give_the_same(self, model, scenes) -> None:
        alone = dict(pseudo_label_stages(model, scenes, ALL, batch_size=1))
        for size in (2, 4):
            for index, masks in pseudo_label_stages(model, scenes, ALL, batch_size=size):
                for name, mask in masks.items():
                    # A cell on the border of two classes may change sides by rounding.
                    assert (mask == alone[index][name]).mean() > 0.99, (size, index, name)

    @pytest.mark.parametrize('batch_size', [1, 3])
    def test_sizes_are_the_images(self, build_model, photos, batch_size) -> None:
        model = build_model(num_classes=3)
        stages = dict(pseudo_label_stages(model, photos, [0, 1, 2], batch_size))
        for index, size in enumerate([(41, 37), (30, 64), (33, 50)]):
            assert {mask.shape for mask in stages[index].values()} == {size}
        assert ['base' in stages[i] for i in range(3)] == [True, False, False]
        given = read_mask(photos.dataset.data_root + '/masks/a.png')
        assert np.array_equal(stages[0]['base'], given)
        assert set(np.unique(stages[2]['final'])) <= {0, 255}  # no tag
        assert 255 not in stages[1]['init']  # padding is cut off

    def test_trains_nothing(self, model, scenes) -> None:
        model.train()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        list(pseudo_label_stages(model, scenes, [0]))
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class TestWritePseudoLabels:

    def test_files_are_the_final_stage(self, model, scenes, tmp_path) -> None:
        assert write_pseudo_labels(model, scenes, tmp_path, batch_size=4) == tmp_path
        with model.propagation.at_stride(1):
            expected = dict(pseudo_label_stages(model, scenes, ALL))
        for index, photo in enumerate(list_photos(scenes)):
            mask = read_mask(tmp_path / f'{photo.img_id}.png')
            assert np.array_equal(mask, expected[index]['final'])
        assert model.propagation.stride == 2  # as it was
        manifest = Manifest.load(tmp_path)
        assert manifest.complete and manifest.count == 6

    def test_goes_on_where_it_stopped(self, model, scenes, tmp_path) -> None:
        write_pseudo_labels(model, scenes, tmp_path, stride=4)
        before = files(tmp_path)
        for name in list(before)[1:4]:
            (tmp_path / name).unlink()
        kept = tmp_path / list(before)[0]
        kept.write_bytes(b'not touched')
        write_pseudo_labels(model, scenes, tmp_path, stride=4, batch_size=2)
        assert files(tmp_path) == {**before, kept.name: b'not touched'}

    def test_batches_of_one_size(self, build_model, photos, tmp_path, monkeypatch) -> None:
        """Nothing is padded, so that a batch changes no more than the rounding."""
        model, seen = build_model(num_classes=3), []
        folder = Path(photos.dataset.data_root) / 'images'
        Image.open(folder / 'a.png').transpose(Image.Transpose.ROTATE_90).save(folder / 'c.png')
        Image.open(folder / 'b.png').resize((37, 41)).save(folder / 'b.png')
        write_pseudo_labels(model, photos, tmp_path / '1')
        propagate = model.propagate
        monkeypatch.setattr(model, 'propagate', lambda inputs, *args, **options: seen.append(
            inputs.shape) or propagate(inputs, *args, **options))
        write_pseudo_labels(model, photos, tmp_path / '3', batch_size=3)
        assert seen == [(2, 3, 41, 37), (1, 3, 37, 41)]
        for name in 'abc':
            one, three = (read_mask(tmp_path / size / f'{name}.png') for size in '13')
            assert (one == three).mean() > 0.99

    def test_stale_folder(self, model, scenes, tmp_path) -> None:
        write_pseudo_labels(model, scenes, tmp_path, stride=4)
        before = files(tmp_path)
        for options, message in ((dict(stride=2), 'stride was 4 and is now 2'),
                                 (dict(stride=4, note=7), 'note was None and is now 7')):
            with pytest.raises(UserError, match=message):
                write_pseudo_labels(model, scenes, tmp_path, **options)
        model.cam_head.classifier.weight.data.normal_()
        with pytest.raises(UserError, match='weights was'):
            write_pseudo_labels(model, scenes, tmp_path, stride=4)
        assert files(tmp_path) == before
        write_pseudo_labels(model, scenes, tmp_path, stride=4, overwrite=True)
        assert files(tmp_path) != before and list(files(tmp_path)) == list(before)

    def test_other_propagation(self, build_model, scenes, tmp_path) -> None:
        write_pseudo_labels(build_model(), scenes, tmp_path, stride=4)
        other = dict(type='DHRPropagation', num_classes=9, tau=0.5)
        with pytest.raises(UserError, match='propagation was'):
            write_pseudo_labels(build_model(propagation=other), scenes, tmp_path, stride=4)

    def test_other_encoder(self, build_model, scenes, tmp_path) -> None:
        write_pseudo_labels(build_model(), scenes, tmp_path, stride=4)
        other = build_model(uss_encoder=dict(type='ColorTextureUSS', stride=16))
        with pytest.raises(UserError, match='uss was'):
            write_pseudo_labels(other, scenes, tmp_path, stride=4)

    def test_other_m_base(self, model, scenes_root, scenes_with_base, tmp_path) -> None:
        write_pseudo_labels(model, scenes_with_base(), tmp_path / 'out', stride=4)
        for mask in (scenes_root / 'SegmentationClass').glob('*.png'):
            write_mask(tmp_path / 'other' / mask.name, read_mask(mask), [[0, 0, 0]] * 9)
        other = scenes_with_base(tmp_path / 'other')
        with pytest.raises(UserError, match="mask_dir was '.*SegmentationClass' and is now '.*oth"):
            write_pseudo_labels(model, other, tmp_path / 'out', stride=4)

    def test_its_own_m_base_is_spared(self, model, scenes_root, scenes_with_base) -> None:
        with pytest.raises(UserError, match='SegmentationClass: it is read here'):
            write_pseudo_labels(model, scenes_with_base(), scenes_root / 'SegmentationClass',
                                stride=4, overwrite=True)


class TestShares:
    """What is kept of the class shares where the propagation needs them."""

    @pytest.fixture
    def sharing(self, build_model):
        propagation = dict(type='DHRPropagation', num_classes=9, refine=None, marginal='shares')
        return build_model(propagation=propagation)

    def estimates(self, model, dataset) -> dict[str, list[float]]:
        found = {}
        for photo, packed in zip(list_photos(dataset), dataset, strict=False):
            found[photo.img_id] = model.class_shares(*collate(model, [packed]))[0].tolist()
        return found

    def test_are_written_beside_the_masks(self, sharing, scenes, tmp_path) -> None:
        write_pseudo_labels(sharing, scenes, tmp_path, stride=4)
        shares = read_shares(tmp_path)
        assert shares == self.estimates(sharing, scenes)
        for photo in list_photos(scenes):
            assert sum(shares[photo.img_id]) == pytest.approx(1)
            assert set(np.flatnonzero(shares[photo.img_id])) == {0, *photo.tags}

    def test_are_smoothed(self, sharing, scenes, tmp_path) -> None:
        estimates = self.estimates(sharing, scenes)
        first, *others = estimates
        past = {img_id: [1.] + [0.] * 8 for img_id in others}
        seen = []
        propagate = sharing.propagation.__call__

        class Spy(type(sharing.propagation)):
            def __call__(self, batch, *args):
                seen.append(batch.shares[0].tolist())
                return propagate(batch, *args)

        sharing.propagation.__class__ = Spy
        write_pseudo_labels(sharing, scenes, tmp_path, stride=4, past_shares=past,
                            share_momentum=.75)
        found = read_shares(tmp_path)
        assert list(found.values()) == seen
        assert found[first] == estimates[first]
        for img_id in others:
            expected = .75 * np.array(past[img_id]) + .25 * np.array(estimates[img_id])
            assert found[img_id] == pytest.approx(expected.tolist())
        # the masks of another past or momentum are other masks
        for options in (dict(past_shares=past), dict(share_momentum=.75)):
            with pytest.raises(UserError, match='past was|share_momentum was'):
                write_pseudo_labels(sharing, scenes, tmp_path, stride=4, **options)

    def test_survive_a_break(self, sharing, scenes, tmp_path) -> None:
        options = dict(stride=4, past_shares={}, share_momentum=.5)
        write_pseudo_labels(sharing, scenes, tmp_path, **options)
        before = read_shares(tmp_path)
        (tmp_path / SHARES_NAME).unlink()
        for name in list(files(tmp_path))[1:4]:
            (tmp_path / name).unlink()
        write_pseudo_labels(sharing, scenes, tmp_path, **options)
        assert read_shares(tmp_path) == before

    def test_are_not_there_unless_needed(self, model, scenes, tmp_path) -> None:
        write_pseudo_labels(model, scenes, tmp_path, stride=4)
        assert not (tmp_path / SHARES_NAME).exists() and read_shares(tmp_path) == {}

    @pytest.mark.parametrize('content', ['{', '[1]', '{"a": 1}', '{"a": ["x"]}'])
    def test_damaged_file(self, tmp_path, content) -> None:
        (tmp_path / SHARES_NAME).write_text(content)
        with pytest.raises(UserError, match=r'shares\.json: expected'):
            read_shares(tmp_path)

    def test_momentum_out_of_range(self, model, scenes, tmp_path) -> None:
        with pytest.raises(ValueError, match=r'\[0, 1\), but got 1'):
            write_pseudo_labels(model, scenes, tmp_path, share_momentum=1)
