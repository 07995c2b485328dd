# SEAM on PASCAL VOC 2012 (trainaug) with the paper's settings: Wide-ResNet-38, 8 epochs, crop 448.
# Its ImageNet weights are those that PSA and SEAM use, MXNet's file or converted.
#   python tools/train.py configs/seeds/seam_voc.py
#   python tools/make_cams.py configs/seeds/seam_voc.py work_dirs/seam_voc/iter_10582.pth \
#       work_dirs/seam_voc/cams
_base_ = ['cam_voc.py']
crop_size = (448, 448)
model = dict(
    type='SEAM',
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        _delete_=True,
        type='WideResNet38',
        out_indices=(2, 3, 4),
        init_cfg=dict(
            type='WideResNet38Init',
            checkpoint='checkpoints/ilsvrc-cls_rna-a1_cls1000_ep-0001.params')),
    cam_head=dict(in_channels=4096),
    tap_indices=(0, 1),
    tap_in_channels=(512, 1024),
    tap_channels=(64, 128),
    rescale=0.3)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        dataset=dict(
            pipeline=[
                _base_.load_image,
                dict(
                    type='RandomResize', scale=(768, 768), ratio_range=(0.583, 1.0),
                    keep_ratio=True),
                dict(type='RandomCrop', crop_size=crop_size),
                dict(type='RandomFlip', prob=0.5),
                dict(type='PhotoMetricDistortion'),
                dict(type='PackTaggedInputs')
            ])))
max_iters = 10582  # 8 epochs of 8 images an iteration
optim_wrapper = dict(
    optimizer=dict(lr=0.01, weight_decay=5e-4),
    paramwise_cfg=dict(custom_keys={'pcm': dict(lr_mult=10.)}))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
