from __future__ import annotations

from typing import Any

from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import ConfigType, OptConfigType
from torch import Tensor, nn

from ..propagation.refiners import DenseCRF
from .refinement import (
    check_refinement,
    class_probabilities,
    gives_probabilities,
    image_from_inputs,
    read_image,
    refine,
)

__all__ = ['CRFPostProcess', 'is_refined']


@MODELS.register_module()
def CRFPostProcess(segmentor: ConfigType, crf: dict | None = None, min_score: float = 0.05,
                   data_preprocessor: OptConfigType = None, train_cfg: None = None,
                   pretrained: None = None) -> nn.Module:
    """Build any mmseg segmentor so that a dense CRF refines what it predicts.

    One line at the end of a config::

        model = dict(_delete_=True, type='CRFPostProcess', segmentor=_base_.model)

    The result *is* the segmentor, with a hook behind its forward pass: its weights keep their
    names, so that checkpoints load as before, and every way of inference works. Training and the
    plain forward pass are left alone. The CRF sees the image file; for an image that was given as
    an array, it sees the network's input with the normalisation undone.

    With test-time augmentation use :class:`CRFTTAModel` instead, which refines once, not each view.

    Args:
        segmentor (dict): Config of any mmseg segmentor.
        crf (dict, optional): Arguments of :class:`DenseCRF`. Defaults to None, their defaults.
        min_score (float): A class whose probability is at most this everywhere in the image is
            dropped. The most probable class always stays. Defaults to 0.05.
        data_preprocessor (dict, optional): What a config has at its top level, which mmengine's
            Runner puts into the model; a segmentor's own goes before it. Defaults to None.
        train_cfg, pretrained: Always None; ``mmseg.apis.init_model`` sets them.

    Returns:
        nn.Module: The segmentor. Of its predictions ``pred_sem_seg`` is the refined mask and
        ``seg_logits`` the logarithm of the refined probabilities, so that their softmax is these.

    Raises:
        ValueError: If ``min_score`` is outside [0, 1), or a CRF setting is unknown.
        UserError: If the segmentor has a single output channel.
    """
    segmentor = segmentor.copy()
    if data_preprocessor is not None:
        segmentor.setdefault('data_preprocessor', data_preprocessor)
    model = MODELS.build(segmentor)
    check_refinement('CRFPostProcess', model, min_score)
    model.register_forward_hook(_CRFHook(DenseCRF(**(crf or {})), min_score), with_kwargs=True)
    return model


def is_refined(segmentor: nn.Module) -> bool:
    """Whether a segmentor comes from :func:`CRFPostProcess`."""
    return any(isinstance(hook, _CRFHook) for hook in segmentor._forward_hooks.values())


class _CRFHook:
    """Refines what ``forward(inputs, data_samples, mode='predict')`` returns."""

    def __init__(self, crf: DenseCRF, min_score: float) -> None:
        self.crf = crf
        self.min_score = min_score

    def __call__(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        if _argument(args, kwargs, 2, 'mode', 'tensor') != 'predict':
            return output
        inputs = _argument(args, kwargs, 0, 'inputs')
        for pixels, sample in zip(inputs, output, strict=True):
            self._refine(model, pixels, sample)
        return output

    def _refine(self, model: nn.Module, pixels: Tensor, sample: SegDataSample) -> None:
        logits = sample.seg_logits.data.detach()  # (C, H, W), at the size of the original image
        size = logits.shape[-2:]

        def image() -> Tensor:
            path = sample.metainfo.get('img_path')
            if path is not None:
                return read_image(path, size)
            return image_from_inputs(pixels, sample.metainfo, model.data_preprocessor, size)

        probs, prediction = refine(class_probabilities(logits, gives_probabilities(model)),
                                   self.min_score, self.crf, image)
        sample.seg_logits = PixelData(data=probs.clamp_min(1e-12).log())
        sample.pred_sem_seg = PixelData(data=prediction)


def _argument(args: tuple, kwargs: dict[str, Any], place: int, name: str,
              default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)
