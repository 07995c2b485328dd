"""``--cfg-options`` that make a config small enough for a test."""
from __future__ import annotations

# No worker processes, one image fewer per batch than the drawn data sets have.
SMALL_LOADERS = [
    'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False', 'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False', 'default_hooks.checkpoint.interval=2',
    'default_hooks.logger.interval=1'
]
# For every config of a data set with crops of 512: crops are a tenth as large.
SMALL_DATA = [
    *SMALL_LOADERS,
    'model.segmentor.data_preprocessor.size=(48,48)',
    'train_dataloader.dataset.dataset.pipeline.2.transforms.0.scale=(80,80)',
    'train_dataloader.dataset.dataset.pipeline.2.transforms.1.crop_size=(48,48)',
]
# ResNet-101 keeps its depth but not its width.
SMALL_R101 = [
    'model.segmentor.backbone.init_cfg=None', 'model.segmentor.backbone.base_channels=8',
    'model.segmentor.backbone.stem_channels=8', 'model.segmentor.decode_head.in_channels=256',
    'model.segmentor.decode_head.channels=16', 'model.segmentor.decode_head.c1_in_channels=32',
    'model.segmentor.decode_head.c1_channels=8', 'model.cam_head.in_channels=256'
]
RANDOM_VIT = ['model.uss_encoder.model_name=vit_tiny_patch16_224',
              'model.uss_encoder.checkpoint=None']


def short_run(iters: int, warmup: int) -> list[str]:
    """Train for ``iters`` iterations, the first ``warmup`` on tags alone; validate at the end."""
    return [f'train_cfg.max_iters={iters}', f'train_cfg.val_interval={iters}',
            f'param_scheduler.0.end={iters}', f'custom_hooks.0.warmup_iters={warmup}']
