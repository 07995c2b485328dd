# voc_r101.py with the SegFormer of MMSegmentation, MiT-B2; weights are fetched by MMEngine.
# `_base_` stands before the import: mmengine takes a file that imports first for another kind of
# config.
_base_ = './voc_r101.py'
from mmengine.hub import get_config  # noqa: E402

segformer = get_config('mmseg::segformer/segformer_mit-b2_8xb2-160k_ade20k-512x512.py').model
segformer.decode_head.num_classes = _base_.num_classes
model = dict(
    segmentor=dict(segformer, _delete_=True),
    cam_head=dict(in_channels=512, pool_stride=1))
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.), norm=dict(decay_mult=0.))))
