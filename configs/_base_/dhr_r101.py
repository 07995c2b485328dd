# DHR with the settings of the paper: DeepLabv3+, ResNet-101, output stride 8, for any number of
# classes. A config adds `num_classes`, `max_iters` and `warmup_iters` (configs/dhr/voc_r101.py).
_base_ = ['./deeplabv3plus_r101-d8_voc.py', './dhr_runtime.py']
model = dict(
    type='DualEncoderSegmentor',
    segmentor=_base_.segmentor,
    # C5 pooled by 0.5: a 512 crop has a 32x32 CAM.
    cam_head=dict(type='CAMHead', in_channels=2048, pool_stride=2),
    uss_encoder=dict(
        type='ViTUSS',
        model_name='vit_small_patch14_dinov2',
        checkpoint='{{$MMSEG_DHR_USS:checkpoints/vit_small_patch14_dinov2.safetensors}}'),
    # The class masses of the paper; the package's default differs (docs/en/ablation.md).
    propagation=dict(type='DHRPropagation', marginal='uniform', relax=None))
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=4e-5),
    paramwise_cfg=dict(
        custom_keys={
            'cam_head': dict(lr_mult=10.),
            'decode_head': dict(lr_mult=10.)
        }))
train_cfg = dict(type='ResumableIterLoop')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
randomness = dict(seed=0)
