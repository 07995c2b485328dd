"""Tests of the stand-in for mmcv's compiled operators."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch

from mmseg_dhr.compat import install_ext_stand_in
from mmseg_dhr.compat.mmcv_ops import MissingExtension

without_operators = pytest.mark.skipif(
    not isinstance(sys.modules.get('mmcv._ext'), MissingExtension),
    reason='the installed mmcv has compiled operators',
)


class TestMissingExtension:
    def test_call_names_operator_and_remedy(self) -> None:
        with pytest.raises(NotImplementedError, match="'deform_conv_forward'.*Install") as error:
            MissingExtension().deform_conv_forward(torch.zeros(1), groups=1)
        assert 'mmcv-lite' in str(error.value)

    def test_operators_exist_until_called(self) -> None:
        extension = MissingExtension()
        assert hasattr(extension, 'ms_deform_attn_forward')
        assert extension.nms.__name__ == 'nms'

    def test_special_attributes_are_absent(self) -> None:
        # A module that has every attribute confuses inspect and pickle.
        with pytest.raises(AttributeError, match='__wrapped__'):
            _ = MissingExtension().__wrapped__

    def test_reports_that_nothing_was_compiled(self) -> None:
        extension = MissingExtension()
        assert 'without compiled' in extension.get_compiler_version()
        assert 'without compiled' in extension.get_compiling_cuda_version()


class TestInstall:
    @without_operators
    def test_is_installed_by_importing_the_package(self) -> None:
        assert install_ext_stand_in() is True

    @without_operators
    def test_mmcv_knows_that_it_has_no_operators(self) -> None:
        spec = importlib.util.find_spec('mmcv._ext')
        assert spec is not None and spec.loader is None

    @without_operators
    def test_calling_a_compiled_operator_fails_clearly(self) -> None:
        from mmcv.ops import nms

        boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
        with pytest.raises(NotImplementedError, match="'nms'"):
            nms(boxes, torch.tensor([0.9, 0.8]), iou_threshold=0.5)

    @without_operators
    def test_gpu_takes_the_pytorch_path_of_deformable_attention(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mmcv.ops import multi_scale_deform_attn

        monkeypatch.delitem(sys.modules, 'mmcv._ext')
        monkeypatch.setattr(multi_scale_deform_attn, 'IS_CUDA_AVAILABLE', True)
        assert install_ext_stand_in() is True
        assert multi_scale_deform_attn.IS_CUDA_AVAILABLE is False

    def test_loaded_operators_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compiled = ModuleType('mmcv._ext')
        monkeypatch.setitem(sys.modules, 'mmcv._ext', compiled)
        assert install_ext_stand_in() is False
        assert sys.modules['mmcv._ext'] is compiled

    def test_operators_not_loaded_yet_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, 'mmcv._ext', raising=False)
        monkeypatch.setattr(
            importlib.util, 'find_spec', lambda name: ModuleSpec(name, loader=None)
        )
        assert install_ext_stand_in() is False
        assert 'mmcv._ext' not in sys.modules


@without_operators
def test_deformable_attention_samples_bilinearly() -> None:
    """One head, one level, one point: attention is a look-up between pixels."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    height, width = 2, 3
    value = torch.arange(6.0).view(1, height * width, 1, 1)  # (N, H*W, heads, D)
    # Half way between the centres of (row 0, column 0) and (row 1, column 1).
    location = torch.tensor([1.0 / width, 1.0 / height]).view(1, 1, 1, 1, 1, 2)
    out = multi_scale_deformable_attn_pytorch(
        value, torch.tensor([[height, width]]), location, torch.ones(1, 1, 1, 1, 1)
    )
    assert out.item() == pytest.approx((0.0 + 1.0 + 3.0 + 4.0) / 4)


def test_mask2former_head_imports(mmseg_modules: None) -> None:
    from mmseg.registry import MODELS

    assert MODELS.get('Mask2FormerHead') is not None
    assert MODELS.get('mmdet.MSDeformAttnPixelDecoder') is not None
