# DHR on PASCAL VOC 2012 with the settings of the paper: DeepLabv3+, ResNet-101, output stride 8.
#   python tools/dataset_converters/voc_trainaug.py data/VOCdevkit/VOC2012
#   python tools/misc/save_timm_weights.py vit_small_patch14_dinov2.lvd142m \
#       checkpoints/vit_small_patch14_dinov2.safetensors
#   python tools/train.py configs/dhr/voc_r101.py
# ImageNet weights are fetched by MMEngine. Masks of another method as M_base, without warm-up:
#   MMSEG_DHR_BASE=data/rsepm python tools/train.py configs/dhr/voc_r101.py
_base_ = [
    '../_base_/datasets/voc_tags.py', '../_base_/deeplabv3plus_r101-d8_voc.py',
    '../_base_/dhr_runtime.py'
]
num_classes = 21
model = dict(
    type='DualEncoderSegmentor',
    segmentor=_base_.segmentor,
    # C5 pooled by 0.5: a 512 crop has a 32x32 CAM.
    cam_head=dict(type='CAMHead', in_channels=2048, num_classes=num_classes, pool_stride=2),
    uss_encoder=dict(
        type='ViTUSS',
        model_name='vit_small_patch14_dinov2',
        checkpoint='{{$MMSEG_DHR_USS:checkpoints/vit_small_patch14_dinov2.safetensors}}'),
    # The class masses of the paper; the package's default differs (docs/en/ablation.md).
    propagation=dict(
        type='DHRPropagation', num_classes=num_classes, marginal='uniform', relax=None))
max_iters = 66100
# Without masks the CAMs are all there is: tags alone first, until they are worth something.
warmup_iters = 0 if _base_.base_dir else 3300
custom_hooks = [
    dict(type='RecursiveLearningHook', warmup_iters=warmup_iters),
    dict(type='EMAHook', momentum=0.001)
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=4e-5),
    paramwise_cfg=dict(
        custom_keys={
            'cam_head': dict(lr_mult=10.),
            'decode_head': dict(lr_mult=10.)
        }))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(type='ResumableIterLoop', max_iters=max_iters, val_interval=6610)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
randomness = dict(seed=0)
