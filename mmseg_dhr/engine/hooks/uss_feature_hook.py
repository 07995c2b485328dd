from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ...apis import write_uss_features
from ...utils import UserError
from .runners import model_of, restart_data


@HOOKS.register_module()
class USSFeatureHook(Hook):
    """Fills the cache of USS features before training starts.

    The frozen encoder sees each image once instead of at every iteration; the pipeline then samples
    the features through the recorded geometry (``LoadUSSFeatures``).

    Args:
        out_dir (str): Cache folder, the pipeline's ``cache_dir``.
        scales (Sequence[float]): Factors on the image size. Defaults to (1.0,).
        flip (bool): Also average over the mirrored image. Defaults to False.
    """

    def __init__(self, out_dir: str, scales: Sequence[float] = (1.0, ), flip: bool = False) -> None:
        self.out_dir = out_dir
        self.scales = tuple(scales)
        self.flip = flip

    def before_train(self, runner: Runner) -> None:
        """Write what is missing.

        Raises:
            UserError: If the model has no USS encoder.
        """
        model = model_of(runner)
        if model.uss_encoder is None:
            raise UserError('USSFeatureHook needs `uss_encoder` in the model config. To train on '
                            'features that are there already, leave the hook out.')
        write_uss_features(model.uss_encoder, runner.train_dataloader.dataset, self.out_dir,
                           self.scales, self.flip)
        restart_data(runner)
