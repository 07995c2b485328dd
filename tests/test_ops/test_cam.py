from __future__ import annotations

import pytest
import torch

from mmseg_dhr.ops import add_background, fuse_cams, normalize_cam


class TestNormalize:

    def test_by_hand(self) -> None:
        maps = torch.tensor([[[[2.0, -1.0, 4.0]], [[1.0, 1.0, 1.0]], [[-1.0, -2.0, 0.0]]]])
        got = normalize_cam(maps, torch.tensor([[1, 0, 1]]))
        assert got.tolist() == [[[[0.5, 0.0, 1.0]], [[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]]]

    def test_nan_counts_as_zero(self) -> None:
        maps = torch.tensor([[[[float('nan'), 2.0]]]])
        assert normalize_cam(maps, torch.ones(1, 1)).tolist() == [[[[0.0, 1.0]]]]

    def test_class_count_error(self) -> None:
        with pytest.raises(ValueError, match=r'\(1, 3\)'):
            normalize_cam(torch.rand(1, 3, 2, 2), torch.ones(1, 2))


class TestFuse:

    def test_flipped_view_is_turned_back(self) -> None:
        maps = torch.rand(1, 2, 4, 6)
        fused = fuse_cams([maps, maps.flip(-1)], [False, True], (4, 6), torch.ones(1, 2))
        torch.testing.assert_close(fused, normalize_cam(maps, torch.ones(1, 2)))

    def test_mean_over_scales(self) -> None:
        views = [torch.full((1, 1, 2, 2), 1.0), torch.zeros(1, 1, 4, 4)]
        views[1][0, 0, :2, :2] = 2.0
        fused = fuse_cams(views, [False, False], (4, 4), torch.ones(1, 1))
        assert fused[0, 0, 0, 0] == 1
        assert fused[0, 0, 3, 3] == pytest.approx(1 / 3)

    def test_no_view(self) -> None:
        with pytest.raises(ValueError, match='at least one view'):
            fuse_cams([], [], (2, 2), torch.ones(1, 1))


class TestBackground:

    def test_power_and_constant(self) -> None:
        maps = torch.tensor([[[[0.5, 0.0]], [[0.1, 1.0]]]])
        assert add_background(maps, power=2)[0, 0].tolist() == [[0.25, 0.0]]
        torch.testing.assert_close(add_background(maps, constant=0.3)[0, 0],
                                   torch.tensor([[0.3, 0.3]]))

    def test_no_foreground_is_all_background(self) -> None:
        assert add_background(torch.zeros(1, 0, 2, 2), power=4).min() == 1

    @pytest.mark.parametrize('options', [dict(), dict(power=2, constant=0.3)])
    def test_exactly_one_option(self, options: dict) -> None:
        with pytest.raises(ValueError, match='exactly one'):
            add_background(torch.rand(1, 1, 2, 2), **options)
