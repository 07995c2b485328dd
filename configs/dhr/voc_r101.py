# DHR on PASCAL VOC 2012 with the settings of the paper: DeepLabv3+, ResNet-101, output stride 8.
#   python tools/dataset_converters/voc_trainaug.py data/VOCdevkit/VOC2012
#   python tools/misc/save_timm_weights.py vit_small_patch14_dinov2.lvd142m \
#       checkpoints/vit_small_patch14_dinov2.safetensors
#   python tools/train.py configs/dhr/voc_r101.py
# ImageNet weights are fetched by MMEngine. Masks or seeds of another method for M_base, without
# warm-up:
#   MMSEG_DHR_BASE=data/rsepm python tools/train.py configs/dhr/voc_r101.py
_base_ = ['../_base_/datasets/voc_tags.py', '../_base_/dhr_r101.py']
class_count = dict(num_classes=_base_.num_classes)
class_layout = dict(class_count, background_index=_base_.background_index)
model = dict(
    segmentor=dict(decode_head=class_count), cam_head=class_layout,
    propagation=class_layout)
max_iters = 66100  # 100 epochs
# Without masks the CAMs are all there is: tags alone first, until they are worth something.
warmup_iters = 0 if _base_.base_dir else 3300
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
