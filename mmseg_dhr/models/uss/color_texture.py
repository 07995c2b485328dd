"""A USS encoder without weights: colour and texture through a fixed filter bank."""
from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

__all__ = ['ColorTextureUSS']

_LOG_OFFSET = 16.  # grey levels; keeps the noise of dark pixels out of the logarithm
_ENERGY_OFFSET = 0.02  # the same for contrast and edge energy, in units of log intensity
_TYPICAL_INTENSITY = 4.7  # log intensity of photographs
_COLOUR_SCALES = (1., 3.)  # sigmas in pixels
_CONTRAST_SCALES = (2., 4.)
_EDGE_SCALES = (1., 2.)
_ORIENTATIONS = 4


def _weights_of_channels() -> tuple[list[float], list[float]]:
    """Centre and factor of each channel.

    Centres and deviations are those of photographs, rounded; a weight says how much a kind of
    channel counts, shared by its members.
    """
    kinds = [  # centre, deviation, weight, channels
        *[(0.10, 0.33, 1.0, 2) for _ in _COLOUR_SCALES],
        (_TYPICAL_INTENSITY, 0.6, 0.5, 1),
        *[(-1.9, 1.0, 0.3, 1) for _ in _CONTRAST_SCALES],
        *[(-2.75, 0.7, 0.3, _ORIENTATIONS) for _ in _EDGE_SCALES],
    ]
    centres = [centre for centre, _, _, count in kinds for _ in range(count)]
    factors = [weight / deviation / math.sqrt(count)
               for _, deviation, weight, count in kinds for _ in range(count)]
    return centres, factors


@MODELS.register_module()
class ColorTextureUSS(BaseModule):
    """Colour and texture of each place, as features whose cosine is a similarity.

    Unsupervised in the literal sense: no label, no training and no weights. It is made for
    demonstrations and as a baseline. It sees what a place looks like and nothing of what it
    means: on photographs it is no substitute for a self-supervised transformer.

    .. code-block:: none

        RGB -> log opponent colours -> filter bank -> mean per cell -> standardise
            -> cosine and sine of fixed random projections

    Filter bank, 15 channels: two opponent colours at sigma 1 and 3, intensity at sigma 3, local
    contrast at sigma 2 and 4, energy of Gaussian derivatives in four orientations at sigma 1 and
    2. The logarithm makes colours independent of the strength of the light.

    Standardisation is by fixed constants, not by the image's own mean: what else an image shows,
    how it is cropped and how much padding it has do not change the features of a place.

    Raw filter responses are a poor input to a cosine, which depends on where the origin lies:
    grey ground lies at the origin and has no direction. Random Fourier features (Rahimi and
    Recht, NIPS 2007) remove it: the cosine of two features approximates exp(-d² / (2 bandwidth²))
    of the distance d between the standardised responses. 1 means alike, 0 unlike, and negative
    values are approximation error. The form, the channel weights and the default bandwidth were
    chosen once, with the labels of 120 synthetic scenes and 60 photographs at hand.

    Args:
        stride (int): Side of a cell in pixels; one feature per cell. Defaults to 4.
        frequencies (int): Number of random projections, half of the output channels; more make
            the approximation better. Defaults to 48.
        bandwidth (float): Distance at which two places begin to be unlike. Defaults to 1.4.

    Attributes:
        out_channels (int): Channels D of the output, ``2 * frequencies``.
        input_range (str): ``'rgb255'``.

    Raises:
        ValueError: If an argument is not positive.
    """
    input_range = 'rgb255'

    def __init__(self, stride: int = 4, frequencies: int = 48, bandwidth: float = 1.4) -> None:
        super().__init__()
        for name, value in dict(stride=stride, frequencies=frequencies,
                                bandwidth=bandwidth).items():
            if value <= 0:
                raise ValueError(f'Expected `{name}` to be positive, but got {value}.')
        self.stride = stride
        self.out_channels = 2 * frequencies
        centres, factors = _weights_of_channels()
        # NumPy never changes the stream of RandomState: features cached today stay valid.
        projections = np.random.RandomState(0).standard_normal((frequencies, len(centres)))
        self._constant('centres', torch.tensor(centres).view(1, -1, 1, 1))
        self._constant('factors', torch.tensor(factors).view(1, -1, 1, 1))
        self._constant('projections', torch.from_numpy(projections / bandwidth).float())

    def _constant(self, name: str, value: Tensor) -> None:
        # Not persistent: a checkpoint need not carry what the code determines.
        self.register_buffer(name, value, persistent=False)

    def feature_settings(self) -> dict[str, Any]:
        """Settings that change the features and are no weights."""
        return dict(stride=self.stride)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Features of RGB images.

        Args:
            images (Tensor): (B, 3, H, W), 0..255, of any dtype.

        Returns:
            tuple[Tensor]: One float32 map (B, D, ceil(H / stride), ceil(W / stride)) of unit
                vectors.

        Raises:
            ValueError: If the images have another shape or are normalised.
        """
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError('Expected RGB images of shape (B, 3, H, W), '
                             f'but got {tuple(images.shape)}.')
        with torch.autocast(images.device.type, enabled=False):
            images = images.float()
            # Undoing a normalisation may leave rounding errors below zero, but no whole grey level.
            # On a GPU the question alone would cost more than the filters.
            if images.is_cpu and images.numel() and images.amin() < -1:
                raise ValueError('Expected RGB in 0..255, but got values down to '
                                 f'{images.amin():.2f}; pass images without normalisation.')
            responses = _filter_bank(torch.log(images.clamp(0, 255) + _LOG_OFFSET))
            cells = F.avg_pool2d(responses, self.stride, ceil_mode=True)  # (B, 15, h, w)
            phases = torch.einsum('dc,bchw->bdhw', self.projections,
                                  (cells - self.centres) * self.factors)
            features = torch.cat([phases.cos(), phases.sin()], dim=1)
            return (features / math.sqrt(len(self.projections)), )


def _filter_bank(log_rgb: Tensor) -> Tensor:
    """(B, 3, H, W) to the responses (B, 15, H, W)."""
    red, green, blue = log_rgb.split(1, dim=1)
    intensity = (red + green + blue) / 3
    opponents = torch.cat([red - green, (red + green) / 2 - blue], dim=1)
    channels = [_smooth(opponents, sigma) for sigma in _COLOUR_SCALES]
    channels.append(_smooth(intensity, _COLOUR_SCALES[-1]))
    channels += [_local_contrast(intensity, sigma) for sigma in _CONTRAST_SCALES]
    channels += [_edge_energies(intensity, sigma) for sigma in _EDGE_SCALES]
    return torch.cat(channels, dim=1)


def _local_contrast(intensity: Tensor, sigma: float) -> Tensor:
    """Logarithm of the standard deviation in a Gaussian window, (B, 1, H, W)."""
    # Around a typical value, where the difference of squares loses least to rounding.
    centred = intensity - _TYPICAL_INTENSITY
    variance = _smooth(centred**2, sigma) - _smooth(centred, sigma)**2
    return torch.log(_ENERGY_OFFSET + variance.clamp_min(0).sqrt())


def _edge_energies(intensity: Tensor, sigma: float) -> Tensor:
    """Logarithm of the smoothed directional derivative, (B, orientations, H, W)."""
    plain, slope = _gaussian(sigma, intensity), _gaussian_slope(sigma, intensity)
    along_x, along_y = _separable(intensity, plain, slope), _separable(intensity, slope, plain)
    angles = [math.pi * k / _ORIENTATIONS for k in range(_ORIENTATIONS)]
    energies = torch.cat([(along_x * math.cos(angle) + along_y * math.sin(angle))**2
                          for angle in angles], dim=1)
    return torch.log(_ENERGY_OFFSET + _smooth(energies, 1.5 * sigma).clamp_min(0).sqrt())


def _smooth(maps: Tensor, sigma: float) -> Tensor:
    kernel = _gaussian(sigma, maps)
    return _separable(maps, kernel, kernel)


def _gaussian(sigma: float, like: Tensor) -> Tensor:
    radius = math.ceil(3 * sigma)
    steps = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    kernel = torch.exp(-steps**2 / (2 * sigma**2))
    return kernel / kernel.sum()


def _gaussian_slope(sigma: float, like: Tensor) -> Tensor:
    """Derivative of the Gaussian, times sigma: its response does not depend on the scale."""
    kernel = _gaussian(sigma, like)
    radius = len(kernel) // 2
    steps = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    return -steps / sigma * kernel


def _separable(maps: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Filter each channel with an outer product of two kernels; edge pixels repeat outwards."""
    batch, channels, height, width = maps.shape
    left, top = len(horizontal) // 2, len(vertical) // 2
    maps = F.pad(maps.reshape(-1, 1, height, width), (left, left, top, top), mode='replicate')
    maps = F.conv2d(F.conv2d(maps, horizontal.view(1, 1, 1, -1)), vertical.view(1, 1, -1, 1))
    return maps.view(batch, channels, height, width)
