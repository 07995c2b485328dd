# CAMs of a multi-label classifier on small VOC photographs, made for a CPU core.
#   python tools/train.py configs/seeds/cam_vocmini.py --data-root data/vocmini
#   python tools/make_cams.py configs/seeds/cam_vocmini.py \
#       work_dirs/cam_vocmini/iter_300.pth work_dirs/cam_vocmini/cams --scales 1
# AdvCAM of the same network: `--climb-iters 12 --climb-step 0.004 --climb-others-weight 0.05`. The
# paper's settings do harm on this backbone (docs/en/cams.md).
_base_ = ['../_base_/datasets/vocmini.py', '../_base_/dhr_runtime.py']
num_classes = 21
crop_size = (256, 256)
model = dict(
    type='CAMClassifier',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.0] * 3,
        std=[128.0] * 3,
        bgr_to_rgb=True,
        pad_val=0,
        size=crop_size),
    backbone=dict(
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        features_only=True,
        pretrained=False,
        out_indices=(1, 2, 3, 4),
        output_stride=16,
        init_cfg=dict(type='EfficientNetLiteInit')),
    cam_head=dict(type='CAMHead', in_channels=320, num_classes=num_classes),
    channels_last=True,
    norm_eval=True)
# Only images and tags: neither M_base nor USS features.
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            pipeline=[
                _base_.load_image,
                dict(
                    type='RandomResize', scale=(320, 320), ratio_range=(0.6, 1.0),
                    keep_ratio=True),
                dict(type='RandomCrop', crop_size=crop_size),
                dict(type='RandomFlip', prob=0.5),
                dict(type='PhotoMetricDistortion'),
                dict(type='PackTaggedInputs')
            ])))
pseudo_label_dataset = dict(
    dataset=dict(pipeline=[_base_.load_image, dict(type='PackTaggedInputs')]))
# A classifier predicts no masks: nothing to validate.
val_dataloader = None
val_evaluator = None
test_dataloader = None
test_evaluator = None
max_iters = 300
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={'cam_head': dict(lr_mult=10.)}))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(type='ResumableIterLoop', max_iters=max_iters, val_interval=max_iters)
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(interval=100))
