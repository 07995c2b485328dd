"""Training of USS heads on the cached features of a frozen encoder."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.dist import broadcast
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...ops.correspondence import (
    correspondence,
    correspondence_loss,
    random_points,
    sample_points,
)
from .heads import STEGOHead

__all__ = ['ClusterProbe', 'STEGOTraining', 'USSProbes']

_ENCODER = 'encoder.'


class ClusterProbe(nn.Module):
    """Mini-batch K-means by cosine, as STEGO measures its codes (arXiv 2203.08414, section 4).

    Args:
        channels (int): Channels of the codes.
        num_clusters (int): Clusters K.
    """
    placed: Tensor

    def __init__(self, channels: int, num_clusters: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(num_clusters, channels))
        self.register_buffer('placed', torch.zeros((), dtype=torch.bool))

    def forward(self, codes: Tensor) -> Tensor:
        """(B, d, h, w) -> cosine with each centre (B, K, h, w)."""
        centres = F.normalize(self.centres, dim=1)
        return torch.einsum('kd,bdhw->bkhw', centres, F.normalize(codes, dim=1))

    def loss(self, codes: Tensor) -> Tensor:
        """Minus the mean cosine with the nearest centre; draws the first centres from codes."""
        if not self.placed:
            self._place(codes)
        return -self(codes).amax(1).mean()

    @torch.no_grad()
    def _place(self, codes: Tensor) -> None:
        """Centres far from the codes would never win one: begin at random codes."""
        points = codes.transpose(0, 1).flatten(1).t()  # (B*h*w, d)
        # Two equal centres would never part.
        chosen = torch.randperm(len(points), device=points.device)
        chosen = chosen[torch.arange(len(self.centres), device=points.device) % len(points)]
        self.centres.copy_(F.normalize(points[chosen], dim=1))
        broadcast(self.centres.data)  # DDP copies parameters only when it is built
        self.placed.fill_(True)


@MODELS.register_module()
class USSProbes(BaseModel):
    """Probes of a frozen encoder's features, and the base of the models that train a head on them.

    Training reads cached features (:class:`NeighbourPairDataset`); validation and test run the
    encoder on images. The encoder is not trained and is not in checkpoints.

    .. code-block:: none

        cached features -> code -> losses of the head
                            └ detached -> cluster probe (no labels), linear probe (labels)

    The linear probe reads labels to *measure* how well the codes separate classes. It trains only
    itself, and only if ``num_classes`` is given and the batch holds labels.

    Args:
        encoder (dict): Config of the frozen encoder, RGB 0..255 -> tuple with one map.
        num_clusters (int): Clusters of the cluster probe. Defaults to 27.
        num_classes (int, optional): Classes of the linear probe; None for no such probe. Defaults
            to None.
        channels (int, optional): Channels of the codes; None takes the encoder's. Defaults to None.
    """

    encoder: Any

    def __init__(self, encoder: dict, num_clusters: int = 27, num_classes: int | None = None,
                 channels: int | None = None) -> None:
        super().__init__(BaseDataPreprocessor())
        self.encoder = MODELS.build(encoder).requires_grad_(False)
        channels = channels or self.encoder.out_channels
        self.cluster_probe = ClusterProbe(channels, num_clusters)
        self.linear_probe = nn.Conv2d(channels, num_classes, 1) if num_classes else None
        self._register_state_dict_hook(_drop_encoder)
        self._register_load_state_dict_pre_hook(_keep_encoder, with_module=True)

    def train(self, mode: bool = True) -> USSProbes:
        """Switch all but the encoder, which always is in eval mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def code(self, features: Tensor) -> Tensor:
        """Codes (B, d, h, w) that are measured and used, from features (B, D, h, w)."""
        return features

    def head_losses(self, features: Tensor, positives: Tensor | None) -> dict[str, Tensor]:
        """Losses of the head, and what else shall be logged; none without a head."""
        return {}

    def forward(self, inputs: Any, data_samples: Sequence[Any] | None = None, mode: str = 'tensor',
                positives: Tensor | None = None, labels: Tensor | None = None) -> Any:
        """Losses of a batch of features, or predictions of images.

        Args:
            inputs: With ``mode='loss'`` features (B, D, h, w); else images, a list of (3, H, W) or
                (B, 3, H, W), BGR 0..255 as mmseg loads them.
            data_samples (Sequence[SegDataSample], optional): Of the images; they are given
                ``pred_sem_seg`` (clusters) and, with a linear probe, ``pred_linear`` (classes).
            mode (str): 'loss', 'predict' or 'tensor' (codes of the images).
            positives (Tensor, optional): Features of similar images, (B, D, h, w).
            labels (Tensor, optional): For the linear probe, long (B, h, w), 255 = ignored.

        Raises:
            ValueError: If the mode is another one.
        """
        if mode == 'loss':
            return self.loss(inputs, positives, labels)
        codes = [self._code_of_image(image) for image in inputs]
        if mode == 'tensor':
            return codes
        if mode != 'predict' or data_samples is None:
            raise ValueError("Expected mode 'loss' or 'tensor', or 'predict' with data samples, "
                             f'but got {mode!r}.')
        for image, code, sample in zip(inputs, codes, data_samples, strict=True):
            self._predict(code, sample, image.shape[-2:])
        return data_samples

    def loss(self, features: Tensor, positives: Tensor | None,
             labels: Tensor | None) -> dict[str, Tensor]:
        """Losses of head and probes."""
        losses = self.head_losses(features, positives)
        with torch.no_grad():
            codes = self.code(features).float()
        losses['loss_cluster_probe'] = self.cluster_probe.loss(codes)
        if self.linear_probe is not None and labels is not None:
            each = F.cross_entropy(self.linear_probe(codes), labels, ignore_index=255,
                                   reduction='sum')
            losses['loss_linear_probe'] = each / (labels != 255).sum().clamp_min(1)
        return losses

    @torch.no_grad()
    def _code_of_image(self, image: Tensor) -> Tensor:
        return self.code(self.encoder(image[None].flip(1).float())[0])

    def _predict(self, code: Tensor, sample: Any, size: Sequence[int]) -> None:
        probes = dict(pred_sem_seg=self.cluster_probe, pred_linear=self.linear_probe)
        for name, probe in probes.items():
            if probe is not None:
                scores = F.interpolate(probe(code), size=tuple(size), mode='bilinear',
                                       align_corners=False)
                setattr(sample, name, PixelData(data=scores.argmax(1)))


@MODELS.register_module()
class STEGOTraining(USSProbes):
    """Trains a STEGO head (Hamilton et al., ICLR 2022, arXiv 2203.08414) without labels.

    Three terms, each :func:`~mmseg_dhr.ops.correspondence.correspondence_loss` between an image and
    a partner at random places: itself (intra), one of its nearest images (inter), and other images
    of the batch (neg). Weights and shifts are the official ones for ViT-S; those of ViT-B are
    weights 1, .1, .1538 and shifts .2, .12, 1 (inter, intra, neg). The official shifts go with
    ``keep_mean=True``, which was worse after the few iterations of ``configs/uss``.

    Args:
        encoder (dict): See :class:`USSProbes`.
        dim (int): Channels of the code. Defaults to 70.
        inter_weight, intra_weight, neg_weight (float): Weights of the terms. Default to .25, .67
            and .63.
        inter_shift, intra_shift, neg_shift (float): Their shifts b. Default to .02, .08 and .66.
        feature_samples (int): Side of the square of random places. Defaults to 11.
        neg_samples (int): Random partners of each image. Defaults to 5.
        centre (bool): See ``correspondence_loss``. Defaults to True.
        cap (float, optional): See ``correspondence_loss``. Defaults to None.
        keep_mean (bool): See ``correspondence_loss``. Defaults to False.
        **kwargs: Of :class:`USSProbes`.
    """

    def __init__(self, encoder: dict, dim: int = 70, inter_weight: float = .25,
                 intra_weight: float = .67, neg_weight: float = .63, inter_shift: float = .02,
                 intra_shift: float = .08, neg_shift: float = .66, feature_samples: int = 11,
                 neg_samples: int = 5, centre: bool = True, cap: float | None = None,
                 keep_mean: bool = False, **kwargs: Any) -> None:
        super().__init__(encoder, channels=dim, **kwargs)
        self.head = STEGOHead(self.encoder.out_channels, dim)
        self.weights = dict(inter=inter_weight, intra=intra_weight, neg=neg_weight)
        self.shifts = dict(inter=inter_shift, intra=intra_shift, neg=neg_shift)
        self.feature_samples = feature_samples
        self.neg_samples = neg_samples
        self.centre = centre
        self.cap = cap
        self.keep_mean = keep_mean

    def code(self, features: Tensor) -> Tensor:
        """The head's code."""
        return self.head(features)

    def head_losses(self, features: Tensor, positives: Tensor | None) -> dict[str, Tensor]:
        """The three terms, ``loss_inter``, ``loss_intra`` and ``loss_neg``.

        Raises:
            ValueError: If there are no positives, or the batch has one image only.
        """
        if positives is None or len(features) < 2:
            raise ValueError('STEGOTraining expects positives (`neighbours_dir` of the '
                             'NeighbourPairDataset) and at least two images in a batch.')
        places = [random_points(len(features), self.feature_samples, features.device)
                  for _ in range(2)]
        codes = self.head(features)
        image, again = (_Samples(sample_points(features, p), sample_points(codes, p))
                        for p in places)
        partner = _Samples(sample_points(positives, places[1]),
                           sample_points(self.head(positives), places[1]))
        # An image with itself is compared at two sets of places, as with any partner.
        negatives = [self._term('neg', image, _Samples(again.features[order], again.codes[order]))
                     for order in _derangements(len(features), self.neg_samples)]
        return dict(loss_inter=self._term('inter', image, partner),
                    loss_intra=self._term('intra', image, again),
                    loss_neg=torch.stack(negatives).mean())

    def _term(self, name: str, first: _Samples, second: _Samples) -> Tensor:
        """Weighted loss between images and partners."""
        loss = correspondence_loss(
            correspondence(first.features, second.features),
            correspondence(first.codes, second.codes), self.shifts[name], self.centre, self.cap,
            self.keep_mean)
        return self.weights[name] * loss


class _Samples(NamedTuple):
    """Features (B, D, n) and codes (B, d, n) at the same places."""
    features: Tensor
    codes: Tensor


def _derangements(length: int, count: int) -> list[list[int]]:
    """Random permutations in which nothing stays in place: cycles along a random order."""
    found = []
    for _ in range(count):
        order = torch.randperm(length).tolist()
        partner = dict(zip(order, order[1:] + order[:1], strict=True))
        found.append([partner[i] for i in range(length)])
    return found


def _drop_encoder(module: nn.Module, state: dict, prefix: str, _: dict) -> None:
    for key in [k for k in state if k.startswith(prefix + _ENCODER)]:
        del state[key]


def _keep_encoder(module: Any, state: dict, prefix: str, *_: Any) -> None:
    """A checkpoint has no encoder: offer the module its own, so that nothing is 'missing'."""
    for key, value in module.encoder.state_dict().items():
        state.setdefault(f'{prefix}{_ENCODER}{key}', value)
