# CAMs of a multi-label classifier on PASCAL VOC 2012 (trainaug): ResNet-50, output stride 16, five
# epochs, as IRNet's and AdvCAM's.
#   python tools/dataset_converters/voc_trainaug.py data/VOCdevkit/VOC2012
#   python tools/train.py configs/seeds/cam_voc.py
#   python tools/make_cams.py configs/seeds/cam_voc.py work_dirs/cam_voc/iter_3305.pth \
#       work_dirs/cam_voc/cams
# AdvCAM of the same network: `--climb-iters 27 --climb-step 0.008`.
_base_ = ['../_base_/datasets/voc_tags.py', '../_base_/dhr_runtime.py']
num_classes = 21
crop_size = (512, 512)
model = dict(
    type='CAMClassifier',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        size=crop_size),
    backbone=dict(
        type='ResNet',
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        strides=(1, 2, 2, 1),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    cam_head=dict(type='CAMHead', in_channels=2048, num_classes=num_classes))
# Only images and tags: no M_base.
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            pipeline=[
                _base_.load_image,
                dict(
                    type='RandomResize', scale=(640, 640), ratio_range=(0.5, 1.0),
                    keep_ratio=True),
                dict(type='RandomCrop', crop_size=crop_size),
                dict(type='RandomFlip', prob=0.5),
                dict(type='PackTaggedInputs')
            ])))
pseudo_label_dataset = dict(
    dataset=dict(pipeline=[_base_.load_image, dict(type='PackTaggedInputs')]))
# A classifier predicts no masks: nothing to validate.
val_dataloader = None
val_evaluator = None
test_dataloader = None
test_evaluator = None
max_iters = 3305  # 5 epochs of 16 images an iteration
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys={'cam_head': dict(lr_mult=10.)}))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(type='ResumableIterLoop', max_iters=max_iters, val_interval=max_iters)
randomness = dict(seed=0)
