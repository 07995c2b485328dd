# DHR on small VOC photographs, made for two CPU cores: tags -> CAM -> M_base without biased objects
# -> DHR online. M_base as it is: custom_hooks.1.base_masks.debias=None
#   python tools/train.py configs/dhr/vocmini_effnetlite0.py --data-root data/vocmini
_base_ = ['../_base_/datasets/vocmini.py', '../_base_/dhr_runtime.py']
num_classes = 21
crop_size = (256, 256)
norm_cfg = dict(type='BN', requires_grad=True)
segmentor = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.0] * 3,
        std=[128.0] * 3,
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=crop_size),
    backbone=dict(
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        features_only=True,
        pretrained=False,
        out_indices=(1, 2, 3, 4),
        output_stride=16,
        init_cfg=dict(type='EfficientNetLiteInit')),
    decode_head=dict(
        type='DepthwiseSeparableASPPHead',
        in_channels=320,
        in_index=3,
        channels=128,
        dilations=(1, 6, 12, 18),
        c1_in_channels=24,
        c1_channels=24,
        dropout_ratio=0.1,
        num_classes=num_classes,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
# Any self-supervised ViT of timm. This makes the file:
# python tools/misc/save_timm_weights.py vit_small_patch14_dinov2.lvd142m \
#     checkpoints/vit_small_patch14_dinov2.safetensors
uss_encoder = dict(
    type='ViTUSS',
    model_name='vit_small_patch14_dinov2',
    checkpoint='{{$MMSEG_DHR_USS:checkpoints/vit_small_patch14_dinov2.safetensors}}')
model = dict(
    type='DualEncoderSegmentor',
    segmentor=segmentor,
    channels_last=True,  # on a CPU, depthwise convolutions take half the time
    cam_head=dict(type='CAMHead', in_channels=320, num_classes=num_classes),
    uss_encoder=uss_encoder,
    propagation=dict(type='DHRPropagation', num_classes=num_classes))
max_iters = 1100
warmup_iters = 260
uss_hook = dict(type='USSFeatureHook', out_dir='{work_dir}/uss_features')
base_masks = dict(
    out_dir='{work_dir}/base_masks',
    scales=(1.0, ),
    background_constant=0.3,
    threads=1,
    debias=dict(features='{work_dir}/uss_features'))
custom_hooks = [
    uss_hook,
    dict(type='RecursiveLearningHook', warmup_iters=warmup_iters, base_masks=base_masks)
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys={
            'cam_head': dict(lr_mult=10.),
            'decode_head': dict(lr_mult=10.)
        }))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(type='ResumableIterLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(interval=100))
