from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.datasets import PascalVOCDataset
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample
from tqdm import tqdm

from ..formats import atomic_path, open_output, write_mask
from ..utils import UserError


@HOOKS.register_module()
class MaskWriterHook(Hook):
    """Writes the predictions of a test as palette PNG files ``{image id}.png``.

    The files hold label indices as the network predicts them and carry the data set's palette.

    Args:
        out_dir (str): Folder to write to; made if it is absent. Earlier predictions are replaced.

    Raises:
        ValueError: If the folder holds PNG files that are no predictions.
        UserError: If two images have the same file name.
    """

    def __init__(self, out_dir: str | os.PathLike) -> None:
        self.out_dir = Path(out_dir)
        self._seen: dict[str, str] = {}

    def before_test_epoch(self, runner: Runner) -> None:
        """Check the folder before anything is predicted: photos and true masks are PNG too."""
        if is_main_process():
            open_output(self.out_dir, dict(kind='predictions'), (), '.png')
        barrier()

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None,
                        outputs: Sequence[SegDataSample] | None = None) -> None:
        """Write the masks of one batch."""
        palette = runner.test_dataloader.dataset.metainfo['palette']
        for sample in outputs or ():
            mask = sample.pred_sem_seg.data[0].cpu().numpy().astype('uint8')
            image_id = Path(sample.img_path).stem
            if self._seen.setdefault(image_id, sample.img_path) != sample.img_path:
                raise UserError(f'{self.out_dir}: expected images with file names of their own, '
                                f'but {self._seen[image_id]} and {sample.img_path} would have the '
                                'same mask file.')
            self.write(image_id, mask, palette)

    def write(self, image_id: str, mask: np.ndarray, palette: Sequence[Sequence[int]]) -> None:
        """Write one mask, uint8 (H, W)."""
        write_mask(self.out_dir / f'{image_id}.png', mask, palette)


@HOOKS.register_module()
class VOCSubmissionHook(MaskWriterHook):
    """Writes the predictions of a test as the evaluation server of PASCAL VOC takes them::

        out_dir/
        ├── results/VOC2012/Segmentation/comp6_test_cls/{image id}.png    labels 0 to 20, palette
        └── results.tgz                                                   what is uploaded

    comp6 is the competition for methods that also saw other data, such as ImageNet.

    Args:
        out_dir (str): Folder to write to; made if it is absent.

    Raises:
        UserError: If there are masks already, if the data set does not have the 21 classes of VOC
            in their order, or if a mask holds any other label, 255 included.
    """

    def __init__(self, out_dir: str | os.PathLike) -> None:
        self.root = Path(out_dir)
        super().__init__(self.root / 'results' / 'VOC2012' / 'Segmentation' / 'comp6_test_cls')

    def before_test_epoch(self, runner: Runner) -> None:
        """Check the classes and the folder before anything is predicted."""
        expected = PascalVOCDataset.METAINFO['classes']
        classes = runner.test_dataloader.dataset.metainfo['classes']
        if tuple(classes) != tuple(expected):
            raise UserError(f"The VOC server expects the {len(expected)} classes of VOC in VOC's "
                            f'order, {", ".join(expected[:4])}, ..., but the test data set has '
                            f'{len(classes)}: {", ".join(classes[:4])}, ....')
        if is_main_process() and any(self.out_dir.glob('*.png')):
            raise UserError(f'{self.out_dir}: expected no masks there, for all of them are '
                            'submitted, but found some. Give another folder or remove them.')
        barrier()

    def write(self, image_id: str, mask: np.ndarray, palette: Sequence[Sequence[int]]) -> None:
        """Write one mask, uint8 (H, W), if the server will take it."""
        if mask.max() >= len(palette):
            raise UserError(f'{image_id}: the VOC server expects labels 0 to {len(palette) - 1}, '
                            f'but the prediction holds {mask.max()}.')
        super().write(image_id, mask, palette)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Pack what all processes wrote."""
        barrier()
        if not is_main_process():
            return
        archive = self.root / 'results.tgz'
        with atomic_path(archive) as temporary, tarfile.open(temporary, 'w:gz') as tar:
            tar.add(self.root / 'results', 'results')
        print_log(f'Wrote {sum(1 for _ in self.out_dir.glob("*.png"))} masks and {archive}.',
                  logger='current')


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
