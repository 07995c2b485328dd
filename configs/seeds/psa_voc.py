# PSA (Ahn & Kwak, CVPR 2018) on PASCAL VOC: AffinityNet on Wide-ResNet-38, then a random walk.
# The ImageNet weights are those that PSA links to; put the file where it is named here. CAMS is a
# folder of CAMs, ours or another program's.
#   C=configs/seeds/psa_voc.py W=work_dirs/psa_voc
#   python tools/make_affinity_labels.py $C $W/labels --cams CAMS --threads 8
#   python tools/train.py $C
#   python tools/make_affinity_masks.py $C $W/iter_10584.pth $W/masks --cams CAMS
_base_ = ['../_base_/datasets/voc_tags.py', '../_base_/dhr_runtime.py']
crop_size = (448, 448)
# What is learnt from, and how the CAMs walk then.
agreement = dict(
    background_powers=(4.0, 32.0),
    crf=dict(
        gaussian_sxy=3.0,
        gaussian_compat=3.0,
        bilateral_sxy=80.0,
        bilateral_srgb=13.0,
        bilateral_compat=10.0))
walk = dict(beta=8.0, num_steps=256, radius=5, background_power=16.0)
model = dict(
    type='AffinityNetwork',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=crop_size),
    backbone=dict(
        type='WideResNet38',
        out_indices=(2, 3, 4),
        init_cfg=dict(
            type='WideResNet38Init',
            checkpoint='checkpoints/ilsvrc-cls_rna-a1_cls1000_ep-0001.params')),
    affinity_head=dict(type='FeatureAffinityHead', in_channels=(512, 1024, 4096)))
load_image = _base_.load_image
load_labels = dict(
    type='LoadPseudoMask',
    mask_dir='{work_dir}/labels',
    num_classes=_base_.num_classes,
    required=True)
augmentation = [
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion')
]
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        dataset=dict(
            pipeline=[
                load_image, load_labels, *augmentation,
                dict(type='PackTaggedInputs')
            ])))
# Whole images: pixels and tags are read, masks are not.
pseudo_label_dataset = dict(
    dataset=dict(pipeline=[load_image, dict(type='PackTaggedInputs')]))
max_iters = 10584  # 8 epochs
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4),
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
