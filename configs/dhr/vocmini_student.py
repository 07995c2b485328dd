# The segmentor of vocmini_small trained on a folder of finished masks, whatever made them:
#   MMSEG_DHR_LABELS=masks python tools/train.py configs/dhr/vocmini_student.py \
#       --data-root data/vocmini --cfg-options load_from=warmup.pth
_base_ = ['vocmini_small.py']
labels_dir = '{{$MMSEG_DHR_LABELS:work_dirs/labels}}'
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            pipeline=[
                _base_.load_image,
                dict(type='LoadPseudoMask', mask_dir=labels_dir, num_classes=21),
                dict(type='TrackGeometry', transforms=_base_.augmentation),
                dict(type='PackTaggedInputs')
            ])))
model = dict(uss_encoder=None, propagation=None)
custom_hooks = [dict(type='RecursiveLearningHook', warmup_iters=0)]
# A fresh head has few steps to learn in, a warmed-up encoder little to change.
optim_wrapper = dict(
    optimizer=dict(lr=2e-4),
    paramwise_cfg=dict(custom_keys={'decode_head': dict(lr_mult=30.)}))
max_iters = 400
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters, save_optimizer=False, max_keep_ckpts=1))
