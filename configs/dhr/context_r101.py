# DHR on Pascal Context (59 classes), as voc_r101.py; data: docs/en/datasets.md.
_base_ = ['../_base_/datasets/context_tags.py', '../_base_/dhr_r101.py']
class_count = dict(num_classes=_base_.num_classes)
class_layout = dict(class_count, background_index=_base_.background_index)
model = dict(
    segmentor=dict(decode_head=class_count), cam_head=class_layout,
    propagation=class_layout)
max_iters = 33100  # 106 epochs
# Without masks the CAMs are all there is: tags alone first, until they are worth something.
warmup_iters = 0 if _base_.base_dir else 1700
custom_hooks = [
    dict(
        type='RecursiveLearningHook',
        warmup_iters=warmup_iters,
        base_masks=_base_.base_masks),
    dict(type='EMAHook', momentum=0.001)
]
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
