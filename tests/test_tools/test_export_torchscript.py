"""The TorchScript file gives the logits of the network, for other sizes too, with PyTorch alone."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmseg.apis import inference_model, init_model
from PIL import Image
from torch import nn

from mmseg_dhr.utils import UserError

TOOL = 'model_converters/export_torchscript'
PLAIN_TORCH = """
import sys
import numpy as np, torch
from PIL import Image

net, image, out = sys.argv[1:]
pixels = np.array(Image.open(image).convert('RGB')).astype('float32')
images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
np.save(out, torch.jit.load(net)(images).detach().numpy())
assert not any(name.split('.')[0] in ('mmseg', 'mmengine', 'mmcv', 'mmseg_dhr', 'timm')
               for name in sys.modules)
"""


@pytest.mark.parametrize('model', ['wrapped', 'exported', 'refined'])
def test_it_predicts_what_mmseg_predicts(model, write_config, dual_encoder, save_checkpoint,
                                         run_tool, voc_dir, capfd):
    config = write_config(dual_encoder)
    checkpoint = save_checkpoint(config)
    image = voc_dir / 'JPEGImages/im0.jpg'
    net = init_model(config, checkpoint, 'cpu')
    net.cfg.test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    expected = inference_model(net, str(image)).seg_logits.data
    if model == 'exported':
        assert run_tool('model_converters/export_to_mmseg', config, checkpoint, 'plain') == 0
        config, checkpoint = 'plain/tiny.py', 'plain/tiny.pth'
    elif model == 'refined':  # the CRF is no part of the network
        config = write_config(f"dict(type='CRFPostProcess', segmentor={dual_encoder})")
    assert run_tool(TOOL, config, checkpoint, 'net.pt', '--size', 48, 64) == 0
    assert 'for images of any size' in capfd.readouterr().out
    if model == 'wrapped':  # once is enough: starting PyTorch takes long
        done = subprocess.run([sys.executable, '-c', PLAIN_TORCH, 'net.pt', str(image), 'out.npy'],
                              capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        found = torch.from_numpy(np.load('out.npy'))[0]
    else:
        pixels = torch.from_numpy(np.array(Image.open(image))).permute(2, 0, 1).float()
        found = torch.jit.load('net.pt')(pixels[None])[0].detach()
    assert Image.open(image).size == (56, 40)  # not the size of the recording
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_exported(write_config, dual_encoder, save_checkpoint, run_tool, capfd):
    config = write_config(dual_encoder)
    checkpoint = save_checkpoint(config)
    slide = 'model.segmentor.test_cfg.mode=slide'
    assert run_tool(TOOL, config, checkpoint, 'net.pt', '--cfg-options', slide) == 2
    assert "Expected test_cfg=dict(mode='whole'), but found 'slide'" in capfd.readouterr().err
    assert run_tool(TOOL, config, 'absent.pth', 'net.pt') == 2
    assert 'absent.pth: no such checkpoint' in capfd.readouterr().err
    assert not Path('net.pt').exists()


class SizeBound(nn.Module):
    """A recording keeps the size that it was made with."""

    def forward(self, images):
        return images * len(images[0, 0])


class ValueBound(nn.Module):
    """A recording keeps the branch that it took: here a third of all images go another way."""

    def forward(self, images):
        return images * (1 + int(images[0, 0, 0, 0]) % 3)


def test_recordings_that_differ_are_told(load_tool):
    tool = load_tool(TOOL)
    _, any_size = tool.trace(SizeBound(), 8, 8)
    assert not any_size
    torch.manual_seed(0)
    with pytest.raises(UserError, match='decides by the values of the image'):
        for _ in range(40):
            tool.trace(ValueBound(), 8, 8)
