from __future__ import annotations

from typing import NamedTuple


class DenseCRFParams(NamedTuple):
    """Settings of the CRF; the defaults are those of DHR's training and test.

    Attributes:
        iterations: Mean-field steps. 0 returns the input.
        gaussian_sxy: Standard deviation of the smoothness kernel, pixels.
        gaussian_compat: Its weight.
        bilateral_sxy: Standard deviation of the appearance kernel, pixels.
        bilateral_srgb: Standard deviation in colour, grey levels 0..255.
        bilateral_compat: Its weight.
        downscale: Approximate: work on a grid that is so many times coarser, with the appearance
            kernel shrunk accordingly, and scale the result up. 1 is exact.
    """
    iterations: int = 10
    gaussian_sxy: float = 1.0
    gaussian_compat: float = 3.0
    bilateral_sxy: float = 67.0
    bilateral_srgb: float = 3.0
    bilateral_compat: float = 4.0
    downscale: int = 1

    def check(self) -> None:
        """Raise a ValueError if a setting is out of range."""
        whole = dict(iterations=0, downscale=1)
        for name, value in self._asdict().items():
            if name in whole:
                if not isinstance(value, int) or value < whole[name]:
                    raise ValueError(f'Expected {name} of the dense CRF to be a whole number of at '
                                     f'least {whole[name]}, but got {value}.')
            elif not value >= 0 or (value == 0 and not name.endswith('compat')):
                kind = 'at least 0' if name.endswith('compat') else 'positive'
                raise ValueError(f'Expected {name} of the dense CRF to be {kind}, but got {value}.')

    def at_stride(self, stride: float) -> DenseCRFParams:
        """The same CRF on an image that was shrunk by ``stride``: the wide kernel shrinks with
        it, the smoothness kernel stays at one pixel of the grid it works on."""
        return self._replace(bilateral_sxy=self.bilateral_sxy / stride)
