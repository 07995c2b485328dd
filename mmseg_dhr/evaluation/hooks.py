from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample
from tqdm import tqdm

from ..formats import write_mask


@HOOKS.register_module()
class MaskWriterHook(Hook):
    """Writes the predictions of a test as palette PNG files ``{image id}.png``.

    The files hold label indices as the network predicts them and carry the data set's palette.

    Args:
        out_dir (str): Folder to write to; made if it is absent.
    """

    def __init__(self, out_dir: str | os.PathLike) -> None:
        self.out_dir = Path(out_dir)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None,
                        outputs: Sequence[SegDataSample] | None = None) -> None:
        """Write the masks of one batch."""
        palette = runner.test_dataloader.dataset.metainfo['palette']
        for sample in outputs or ():
            mask = sample.pred_sem_seg.data[0].cpu().numpy().astype('uint8')
            write_mask(self.out_dir / f'{Path(sample.img_path).stem}.png', mask, palette)


@HOOKS.register_module()
class TestProgressHook(Hook):
    """A progress bar for a test that runs on a terminal; elsewhere the log has to do."""

    __test__ = False  # not a test case of pytest

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def before_test_epoch(self, runner: Runner) -> None:
        """Open the bar."""
        shown = is_main_process() and sys.stderr.isatty()
        self.bar = tqdm(total=len(runner.test_dataloader), desc='Testing', unit='batch',
                        dynamic_ncols=True, disable=not shown)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None,
                        outputs: Sequence[SegDataSample] | None = None) -> None:
        """Move it by one batch."""
        if self.bar is not None:
            self.bar.update()

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Close it."""
        if self.bar is not None:
            self.bar.close()
