"""Export a trained model to TorchScript: one file that runs with PyTorch alone.

    net = torch.jit.load('model.pt')
    logits = net(images)    # images: RGB 0..255, float32 (B, 3, H, W) -> (B, classes, H, W)

The normalisation is part of the file. Test-time augmentation and CRF are not.
"""
from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_dhr.formats import atomic_path
from mmseg_dhr.utils import UserError, check_checkpoint
from mmseg_dhr.utils.checks import read_checkpoint, spare_inputs
from mmseg_dhr.utils.cli import add_config_arguments, config_from, friendly_errors, positive_int

_TOLERANCE = 1e-3  # of the largest logit: fused kernels add up in another order


class Network(nn.Module):
    """A segmentor from pixels to logits.

    Args:
        segmentor (BaseSegmentor): Its preprocessor normalises.
    """

    def __init__(self, segmentor: Any) -> None:
        super().__init__()
        preprocessor = segmentor.data_preprocessor
        self.segmentor = segmentor
        self.register_buffer('mean', preprocessor.mean.clone())
        self.register_buffer('std', preprocessor.std.clone())
        # The onedl fork of MMSegmentation put an underscore before the name.
        self.reads_rgb = any(getattr(preprocessor, name, False)
                             for name in ('channel_conversion', '_channel_conversion'))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C, H, W) of RGB images 0..255, (B, 3, H, W)."""
        pixels = images if self.reads_rgb else images.flip(1)
        inputs = (pixels - self.mean) / self.std
        metas = [dict(img_shape=inputs.shape[2:])]
        return self.segmentor.encode_decode(inputs, metas)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, of a training or of export_to_mmseg.py')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('out', help='file to write, .pt')
    parser.add_argument('--size', type=positive_int, nargs=2, default=(512, 512),
                        metavar=('H', 'W'),
                        help='size of the image that the network is recorded with '
                        '(default: 512 512)')
    add_config_arguments(parser)
    return parser.parse_args()


def load_network(cfg: Config, checkpoint: str) -> Network:
    """The segmentor of a config with the weights of a checkpoint, in eval mode.

    Raises:
        UserError: If the checkpoint does not fit, or the segmentor does not predict whole images.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    model_cfg = without_training_parts(cfg.model)
    mode = (model_cfg.get('segmentor') or model_cfg)['test_cfg'].get('mode', 'whole')
    if mode != 'whole':
        raise UserError(f"Expected test_cfg=dict(mode='whole'), but found {mode!r}: windows that "
                        'slide over the image are outside the network.')
    model = revert_sync_batchnorm(MODELS.build(model_cfg))
    check_checkpoint(model, checkpoint)
    model.load_state_dict(read_checkpoint(checkpoint)[0], strict=False)
    return Network(getattr(model, 'segmentor', model)).eval()


def without_training_parts(model: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a model's config that needs no file of the training."""
    model = dict(model)
    if model['type'] == 'CRFPostProcess':
        model = dict(model['segmentor'])
    if model['type'] == 'DualEncoderSegmentor':
        model.update(uss_encoder=None, propagation=None)
    return model


@torch.no_grad()
def trace(network: Network, height: int, width: int) -> tuple[torch.jit.ScriptModule, bool]:
    """Record the network on an image of one size.

    Args:
        network (Network): In eval mode.
        height (int): Size of the image.
        width (int): The same.

    Returns:
        tuple[torch.jit.ScriptModule, bool]: The recording, and whether it gives the network's
        logits for images of other sizes and batches too.

    Raises:
        UserError: If it does not even do so for another image of the same size.
    """
    image = torch.rand(1, 3, height, width) * 255
    traced = torch.jit.trace(network, image, check_trace=False)
    if not agree(network, traced, torch.rand(1, 3, height, width) * 255):
        raise UserError('TorchScript does not give the logits of this network: a part of it '
                        'decides by the values of the image.')
    others = [(2, height, width), (1, height + 37, width + 50), (1, width, height + 8)]
    return traced, all(agree(network, traced, torch.rand(n, 3, h, w) * 255) for n, h, w in others)


def agree(network: nn.Module, traced: nn.Module, images: Tensor) -> bool:
    """Whether both give the same logits."""
    expected = network(images)
    try:
        found = traced(images)
    except RuntimeError:  # sizes that do not fit
        return False
    return found.shape == expected.shape and bool(
        (found - expected).abs().max() <= _TOLERANCE * expected.abs().max())


def main() -> None:
    """Export, compare with the original and say what was found."""
    args = parse_args()
    with friendly_errors(args.debug):
        spare_inputs([args.out], [args.config, args.checkpoint])
        network = load_network(config_from(args), args.checkpoint)
        traced, any_size = trace(network, *args.size)
        with atomic_path(args.out) as temporary:
            traced.save(str(temporary))
    sizes = 'of any size' if any_size else f'of {args.size[0]}x{args.size[1]} (HxW) alone'
    print(f'Wrote {args.out}: the same logits as the network, for images {sizes}.')


if __name__ == '__main__':
    main()
