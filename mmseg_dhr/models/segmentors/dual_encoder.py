from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from mmseg.utils import ConfigType, OptConfigType, OptSampleList, SampleList
from torch import Tensor, nn

from ...ops import normalize_cam
from ...utils import UserError
from ..pixels import inputs_to_rgb, normalises, rgb_to_inputs
from ..propagation.beside import run_beside
from ..propagation.dhr import PropagationInputs, PropagationResult, valid_mask
from ..samples import (
    LateMask,
    base_masks_of,
    base_shares_of,
    pad_stack,
    sizes_of,
    tags_of,
    with_truth,
)
from .mask_figures import mask_figures
from .refinement import gives_probabilities

PHASES = ('warmup', 'online', 'given')
_TINY = 1e-12
Smoothing = Callable[[SampleList, Tensor], Tensor]
"""Data samples and estimated class shares (B, num_classes) -> the shares to be used."""


@MODELS.register_module()
class DualEncoderSegmentor(BaseSegmentor):
    """Trains any mmseg segmentor from image-level tags (DHR, Fig. 5).

    The wrapped segmentor is the weakly-supervised (WSS) network; a CAM head on its features learns
    the tags, a frozen unsupervised (USS) encoder sees the same augmented pixels, and a propagation
    turns CAM, both features and M_base into the mask M_dh that supervises the segmentor::

        inputs -> segmentor.extract_feat -> F_ws -> cam_head -> L_cls, A
               -> uss_encoder ---------> F_us            |
        gt_sem_seg (M_base) -----> propagation <---------+
                                        |
                  segmentor's own heads <- M_dh           L_seg          (Eq. 6)

    Inference touches the wrapped segmentor alone. The USS encoder is frozen and no part of the
    module tree: it moves with ``.to(device)`` and is copied with the model, but optimizers,
    checkpoints and DDP do not see it, and it stays in eval mode.

    Training has three phases, set by :class:`RecursiveLearningHook`: ``warmup`` (tags alone),
    ``online`` (M_dh of the current network at every iteration, the default; base samples of
    weak-shot data keep their true masks) and ``given`` (the masks that the pipeline loads, as they
    are). Online, M_dh can come from another network, see :meth:`set_teacher`, and its figures are
    logged as ``dhr/...`` (:func:`mask_figures`).

    Args:
        segmentor (dict): Config of any mmseg segmentor that derives from ``EncoderDecoder``.
        cam_head (dict): Config of the CAM head.
        propagation (dict, optional): Config of the propagation. None trains on the given masks.
        uss_encoder (dict, optional): Config of the USS encoder; it reads RGB 0..255 and returns a
            tuple with one map. None expects ``uss_features`` in the data samples.
        wss_indices (Sequence[int]): Which feature maps of the segmentor enter Step 3.
            Defaults to (-2, -1), the last two stages.
        data_preprocessor (dict, optional): Replaces settings of the segmentor's own, for example
            the crop size. Defaults to None.
        channels_last (bool): Keep the segmentor's weights in that memory layout: the same results
            up to rounding, faster convolutions on CPUs. Defaults to False.
        overlap (bool): Online, make M_dh in a thread of its own, on a GPU also on a stream of its
            own, while the decode heads run forward, up to where they read it: a GPU then does not
            idle while a CRF runs on the CPU, or the host waits for a count. The results are the
            same. Defaults to False: it has not been run on a GPU yet.
        init_cfg (dict, optional): Initialisation.
        train_cfg, pretrained: Always None; ``mmseg.apis.init_model`` sets them.

    Raises:
        UserError: If the segmentor has no data preprocessor that normalises.
    """

    def __init__(self,
                 segmentor: ConfigType,
                 cam_head: ConfigType,
                 propagation: OptConfigType = None,
                 uss_encoder: OptConfigType = None,
                 wss_indices: Sequence[int] = (-2, -1),
                 data_preprocessor: OptConfigType = None,
                 channels_last: bool = False,
                 overlap: bool = False,
                 init_cfg: OptConfigType = None,
                 train_cfg: None = None,
                 pretrained: None = None) -> None:
        segmentor = segmentor.copy()
        if data_preprocessor is not None:
            segmentor['data_preprocessor'] = {**(segmentor.get('data_preprocessor') or {}),
                                              **data_preprocessor}
        built = MODELS.build(segmentor)
        super().__init__(data_preprocessor=built.data_preprocessor, init_cfg=init_cfg)
        if not normalises(self.data_preprocessor):
            raise UserError('DualEncoderSegmentor needs a SegDataPreProcessor with `mean` and '
                            '`std`: the CRF and the USS encoder read the pixels back from them.')
        if channels_last:
            built.to(memory_format=torch.channels_last)
        self.segmentor = built
        self.cam_head = MODELS.build(cam_head)
        self.propagation = None if propagation is None else MODELS.build(propagation)
        # Tuples, because nn.Module makes every attribute that is a module a part of itself.
        self._uss = () if uss_encoder is None else (
            MODELS.build(uss_encoder).requires_grad_(False).eval(), )
        self._teacher: tuple[DualEncoderSegmentor, ...] = ()
        self.wss_indices = tuple(wss_indices)
        self.overlap = overlap
        self.phase = 'online' if self.propagation is not None else 'given'
        self._register_load_state_dict_pre_hook(_check_class_count, with_module=True)

    # What mmseg's own tools (TTA, heads, hooks) ask of a segmentor.
    @property
    def decode_head(self) -> nn.Module:
        """The wrapped segmentor's decode head."""
        return self.segmentor.decode_head

    @property
    def out_channels(self) -> int:
        """Channels of the wrapped segmentor's logits."""
        return self.segmentor.out_channels

    @property
    def num_classes(self) -> int:
        """Classes of the wrapped segmentor."""
        return self.segmentor.num_classes

    @property
    def align_corners(self) -> bool:
        """How the wrapped segmentor resizes its logits."""
        return self.segmentor.align_corners

    @property
    def uss_encoder(self) -> Any:
        """The frozen USS encoder; None if there is none."""
        return self._uss[0] if self._uss else None

    @property
    def teacher(self) -> DualEncoderSegmentor | None:
        """The network whose M_dh supervises this one online; None = this one."""
        return self._teacher[0] if self._teacher else None

    def set_teacher(self, teacher: DualEncoderSegmentor | None) -> None:
        """Let M_dh come from another network, which is put in eval mode.

        The teacher does not become a part of this module: whoever made it moves and saves it. It
        gets this model's USS encoder instead of its own, which is frozen in both.

        Args:
            teacher (DualEncoderSegmentor, optional): A copy of this one; None = this network.
        """
        self._teacher = ()
        if teacher is not None:
            teacher.share_uss_encoder(self)
            self._teacher = (teacher.eval(), )

    def share_uss_encoder(self, other: DualEncoderSegmentor) -> None:
        """Use the frozen USS encoder of another model instead of a copy of it."""
        self._uss = other._uss

    def init_weights(self) -> None:
        """Initialise all parts; the USS encoder reads its checkpoint."""
        super().init_weights()
        if hasattr(self.uss_encoder, 'init_weights'):
            self.uss_encoder.init_weights()

    def _apply(self, *args: Any, **kwargs: Any) -> DualEncoderSegmentor:
        """Behind ``.to()``, ``.cuda()``, ``.half()``...: the USS encoder comes along."""
        super()._apply(*args, **kwargs)
        if self.uss_encoder is not None:
            self.uss_encoder._apply(*args, **kwargs)
        return self

    def set_phase(self, phase: str) -> None:
        """Choose what supervises the segmentor.

        Raises:
            ValueError: If ``phase`` is unknown, or needs a propagation that is not there.
        """
        if phase not in PHASES:
            raise ValueError(f'Expected phase to be one of {PHASES}, but got {phase!r}.')
        if phase == 'online' and self.propagation is None:
            raise ValueError("Phase 'online' needs a `propagation` in the model config.")
        self.phase = phase

    def extract_feat(self, inputs: Tensor) -> Sequence[Tensor]:
        """Features of the wrapped segmentor (after its neck, if it has one)."""
        return self.segmentor.extract_feat(inputs)

    def cam_maps(self, inputs: Tensor) -> Tensor:
        """Class maps (B, K, h, w) of normalised images, K foreground classes in label order."""
        return self.cam_head(self.extract_feat(inputs))

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits of the wrapped segmentor."""
        return self.segmentor.encode_decode(inputs, batch_img_metas)

    def predict(self, inputs: Tensor, data_samples: OptSampleList = None) -> SampleList:
        """Prediction of the wrapped segmentor."""
        return self.segmentor.predict(inputs, data_samples)

    def _forward(self, inputs: Tensor, data_samples: OptSampleList = None) -> Any:
        return self.segmentor._forward(inputs, data_samples)

    def loss(self, inputs: Tensor, data_samples: SampleList) -> dict[str, Tensor]:
        """L_cls on the tags and L_seg on the masks of the current phase (Eq. 6).

        Args:
            inputs (Tensor): Normalised, padded images (B, 3, H, W).
            data_samples (list[SegDataSample]): With metainfo ``image_labels`` and, where there is
                an M_base, ``gt_sem_seg``.

        Returns:
            dict: Losses of the CAM head and of the segmentor's heads; online, figures of M_dh.

        Raises:
            UserError: If a sample has no ``image_labels``.
        """
        features = self.extract_feat(inputs)
        maps = self.cam_head(features)
        targets = self.cam_head.tag_targets([tags_of(s) for s in data_samples])
        inside = valid_mask(inputs, sizes_of(data_samples), maps.shape[-2:])
        losses = self.cam_head.loss(maps, inside, targets)
        if self.phase == 'warmup':
            return losses
        if self.phase == 'given':
            masks = base_masks_of(data_samples)
            if masks is not None:
                losses.update(self._head_losses(features, data_samples, lambda: masks))
            return losses
        result = self._online_masks(inputs, features, maps, data_samples)
        losses.update(self._head_losses(
            features, data_samples,
            functools.cache(lambda: with_truth(result().final, data_samples))))
        losses.update(self._figures(result(), inputs, data_samples))
        return losses

    def _head_losses(self, features: Sequence[Tensor], data_samples: SampleList,
                     masks: Callable[[], Tensor]) -> dict[str, Tensor]:
        """L_seg of all decode heads on ``masks()`` (B, h, w), called when a head reads them."""
        supervised = [LateMask(sample, masks, i) for i, sample in enumerate(data_samples)]
        losses = self.segmentor._decode_head_forward_train(features, supervised)
        if self.segmentor.with_auxiliary_head:
            losses.update(self.segmentor._auxiliary_head_forward_train(features, supervised))
        return losses

    @torch.no_grad()
    def _online_masks(self, inputs: Tensor, features: Sequence[Tensor], maps: Tensor,
                      data_samples: SampleList) -> Callable[[], PropagationResult]:
        """Start to make M_dh of the current network, or of its teacher; what waits for it."""
        maker = self if self.teacher is None else self.teacher
        if maker is not self:
            features = maker.extract_feat(inputs)
            maps = maker.cam_head(features)
        batch = maker._inputs_needed(inputs, features, maps, data_samples)
        assert maker.propagation is not None  # the phase says so
        make = functools.partial(maker.propagation, batch)
        if self.overlap:
            return run_beside(make, inputs.device)
        result = make()
        return lambda: result

    def _figures(self, result: PropagationResult, inputs: Tensor,
                 data_samples: SampleList) -> dict[str, Tensor]:
        final = result.final
        inside = valid_mask(inputs, sizes_of(data_samples), final.shape[-2:])
        return mask_figures(final, result.init, base_masks_of(data_samples), inside,
                            self._tagged(data_samples).to(final.device),
                            self.cam_head.background_index)

    def _tagged(self, data_samples: SampleList) -> Tensor:
        """Bool (B, num_classes) on the CPU: the foreground tags."""
        tagged = torch.zeros(len(data_samples), self.num_classes, dtype=torch.bool)
        targets = self.cam_head.tag_targets([tags_of(s) for s in data_samples])
        tagged[:, self.cam_head.foreground] = targets.bool()
        return tagged

    def _inputs_needed(self, inputs: Tensor, features: Sequence[Tensor], maps: Tensor,
                       data_samples: SampleList,
                       smooth: Smoothing | None = None) -> PropagationInputs:
        """What this model's propagation reads; class shares only if it does."""
        shares = None
        if getattr(self.propagation, 'needs_shares', False):
            shares = self._class_shares(inputs, features, data_samples)
            shares = shares if smooth is None else smooth(data_samples, shares)
        return self._propagation_inputs(inputs, features, maps, data_samples, shares)

    def _propagation_inputs(self, inputs: Tensor, features: Sequence[Tensor], maps: Tensor,
                            data_samples: SampleList,
                            shares: Tensor | None) -> PropagationInputs:
        images = self.inputs_to_rgb(inputs)
        tags, sizes = [tags_of(s) for s in data_samples], sizes_of(data_samples)
        targets = self.cam_head.tag_targets(tags).to(maps.device)
        # L_cls does not see the padding, where the maps may be anything.
        inside = valid_mask(images, sizes, maps.shape[-2:])[:, None]
        base = base_masks_of(data_samples)
        return PropagationInputs(
            images=images,
            sizes=sizes,
            tags=tags,
            cam=normalize_cam(maps.detach().masked_fill(~inside, 0), targets),
            uss=self._uss_features(images, data_samples),
            wss=[features[i].detach() for i in self.wss_indices],
            base=base,
            base_shares=None if base is None else [base_shares_of(s) for s in data_samples],
            shares=shares)

    @torch.no_grad()
    def propagation_inputs(self, inputs: Tensor, data_samples: SampleList,
                           shares: bool = False) -> PropagationInputs:
        """What a propagation reads of a preprocessed batch.

        Args:
            inputs (Tensor): Normalised, padded images (B, 3, H, W).
            data_samples (list[SegDataSample]): As for :meth:`loss`.
            shares (bool): Estimate the class shares with the decode head. Defaults to False.
        """
        features = self.extract_feat(inputs)
        return self._propagation_inputs(
            inputs, features, self.cam_head(features), data_samples,
            self._class_shares(inputs, features, data_samples) if shares else None)

    @torch.no_grad()
    def propagate(self, inputs: Tensor, data_samples: SampleList, stages: bool = True,
                  smooth: Smoothing | None = None) -> PropagationResult:
        """Pseudo-labels that this network makes of a preprocessed batch, without training on it.

        Args:
            inputs (Tensor): Normalised, padded images (B, 3, H, W).
            data_samples (list[SegDataSample]): As for :meth:`loss`.
            stages (bool): Also return the masks after each step. Defaults to True.
            smooth (Callable, optional): Called with the samples and the estimated class shares
                where the propagation needs any; returns those that it is given.

        Returns:
            PropagationResult: See :class:`DHRPropagation`.

        Raises:
            UserError: If the model has no propagation.
        """
        if self.propagation is None:
            raise UserError('The model config has no `propagation`: nothing makes pseudo-labels.')
        features = self.extract_feat(inputs)
        batch = self._inputs_needed(inputs, features, self.cam_head(features), data_samples, smooth)
        return self.propagation(batch, stages)

    @torch.no_grad()
    def class_shares(self, inputs: Tensor, data_samples: SampleList) -> Tensor:
        """The share of each image that each class covers, as the segmentation has it.

        Args:
            inputs (Tensor): Normalised, padded images (B, 3, H, W).
            data_samples (list[SegDataSample]): As for :meth:`loss`.

        Returns:
            Tensor: Mean softmax over the tags and the background, on the part that is no padding,
            (B, num_classes), float32. Rows sum to 1, or to 0 without tags and background. Of
            MaskFormer and Mask2Former, the classes' shares in what their queries sum up to.

        Raises:
            UserError: If the decode head gives no map of logits.
        """
        return self._class_shares(inputs, self.extract_feat(inputs), data_samples)

    def _class_shares(self, inputs: Tensor, features: Sequence[Tensor],
                      data_samples: SampleList) -> Tensor:
        # Without autocast: it would cache the head's weights as they are cast here, without
        # gradient, and the loss that comes after would not train them.
        with _eval_mode(self.decode_head), torch.autocast(inputs.device.type, enabled=False):
            scores = _class_scores(self.segmentor, [level.detach().float() for level in features])
        known = self._tagged(data_samples)
        if self.cam_head.background_index is not None:
            known[:, self.cam_head.background_index] = True
        others = ~known.to(scores.device)[:, :, None, None]
        # Nothing known: softmax gives NaN.
        probs = scores.masked_fill(others, float('-inf')).softmax(1).nan_to_num(0.0)
        inside = valid_mask(inputs, sizes_of(data_samples), scores.shape[-2:])[:, None]
        return (probs * inside).sum((2, 3)) / inside.sum((2, 3))

    def _uss_features(self, images: Tensor, data_samples: SampleList) -> Tensor:
        if all('uss_features' in s for s in data_samples):
            stride = data_samples[0].metainfo.get('uss_stride')
            grid = None if stride is None else [-(-side // stride) for side in images.shape[-2:]]
            return pad_stack([s.uss_features.data for s in data_samples], grid).to(images.device)
        if self.uss_encoder is None:
            raise UserError('No USS features: set `uss_encoder` in the model config, or load '
                            'cached ones with `LoadUSSFeatures` in the pipeline.')
        return self.uss_encoder(images)[0]

    def inputs_to_rgb(self, inputs: Tensor) -> Tensor:
        """Undo the normalisation: (B, 3, H, W), RGB 0..255."""
        return inputs_to_rgb(inputs, self.data_preprocessor)

    def rgb_to_inputs(self, images: Tensor) -> Tensor:
        """Normalise RGB 0..255 as the data preprocessor would."""
        return rgb_to_inputs(images, self.data_preprocessor)


def _class_scores(segmentor: Any, features: list[Tensor]) -> Tensor:
    """Logits (B, num_classes, h, w), up to a constant per pixel, of a segmentor's decode head.

    Raises:
        UserError: If the head gives no such map.
    """
    head = segmentor.decode_head
    if gives_probabilities(segmentor):
        # Queries, each with a class and a mask. Their sum is a non-negative map per class, whose
        # shares in a pixel are what a softmax gives of its logarithm.
        metas = [dict(img_shape=tuple(features[0].shape[-2:])) for _ in features[0]]
        return head.predict(features, metas, segmentor.test_cfg).clamp_min(_TINY).log()
    logits = head.forward(features)
    if not isinstance(logits, Tensor) or logits.shape[1] != segmentor.num_classes:
        raise UserError('The propagation needs class shares, and so a decode head that gives one '
                        f'map of logits per class, but {type(head).__name__} gives something '
                        'else. Use another head or another `marginal`.')
    return logits


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode for a while: no dropout, running statistics stay; each part's mode comes back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _check_class_count(module: nn.Module, state: dict, prefix: str, *_: Any) -> None:
    """mmengine only logs a shape mismatch and goes on with random heads; refuse instead."""
    for name, parameter in module.named_parameters():
        if not name.startswith('segmentor.backbone.'):
            found = state.get(prefix + name)
            if found is not None and found.shape[:1] != parameter.shape[:1]:
                raise UserError(
                    f'The checkpoint is for another number of classes (or another head): {name} is '
                    f'{tuple(found.shape)} there, this config expects {tuple(parameter.shape)} '
                    f'({module.num_classes} classes). Use the config it was trained with.')

