# PSA (Ahn & Kwak, CVPR 2018) on small photographs, for one CPU core. CAMS is a folder of
# tools/make_cams.py.
#   C=configs/seeds/psa_vocmini.py W=work_dirs/psa_vocmini
#   python tools/make_affinity_labels.py $C $W/labels --cams CAMS
#   python tools/train.py $C
#   python tools/make_affinity_masks.py $C $W/iter_400.pth $W/masks --cams CAMS
_base_ = ['../_base_/datasets/vocmini.py', '../_base_/dhr_runtime.py']
crop_size = (192, 192)
# What is learnt from, and how the CAMs walk then. The paper's 256 steps and background of power 16
# are for images and CAMs of another kind: see docs/en/affinity.md.
agreement = dict(
    background_powers=(4.0, 32.0),
    crf=dict(
        gaussian_sxy=3.0,
        gaussian_compat=3.0,
        bilateral_sxy=80.0,
        bilateral_srgb=13.0,
        bilateral_compat=10.0))
walk = dict(beta=8.0, num_steps=16, radius=5, background_power=2.0)
model = dict(
    type='AffinityNetwork',
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
        out_indices=(2, 3, 4),
        output_stride=16,
        init_cfg=dict(type='EfficientNetLiteInit')),
    # Grid of the first tap: stride 8.
    affinity_head=dict(
        type='FeatureAffinityHead', in_channels=(40, 112, 320), channels=(32, 64, 64)),
    freeze_backbone=True)
load_image = _base_.load_image
load_labels = dict(
    type='LoadPseudoMask',
    mask_dir='{work_dir}/labels',
    num_classes=_base_.num_classes,
    required=True)
augmentation = [
    dict(type='RandomResize', scale=(320, 320), ratio_range=(0.75, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion')
]
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            pipeline=[load_image, load_labels, *augmentation,
                      dict(type='PackTaggedInputs')])))
# Whole images: pixels and tags are read, masks are not.
pseudo_label_dataset = dict(
    dataset=dict(pipeline=[load_image, dict(type='PackTaggedInputs')]))
max_iters = 400
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys=dict(affinity_head=dict(lr_mult=10.))))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(type='ResumableIterLoop', max_iters=max_iters)
# The result is scored as masks: tools/evaluate_masks.py.
val_dataloader = None
val_evaluator = None
test_dataloader = None
test_evaluator = None
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(interval=100))
