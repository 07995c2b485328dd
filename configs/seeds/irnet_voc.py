# IRNet's class boundaries (Ahn et al., CVPR 2019) on PASCAL VOC, on a frozen ResNet-50 of output
# stride 16, then a random walk at stride 4. CAMS is a folder of CAMs, anyone's; for
# those of AdvCAM add `--cfg-options walk.cam_power=1.5` to the last command.
#   C=configs/seeds/irnet_voc.py W=work_dirs/irnet_voc
#   python tools/make_affinity_labels.py $C $W/labels --cams CAMS --threads 8
#   python tools/train.py $C
#   python tools/make_affinity_masks.py $C $W/iter_993.pth $W/masks --cams CAMS
_base_ = ['psa_voc.py']
crop_size = (512, 512)
agreement = dict(
    _delete_=True,
    background_powers=None,
    background_constants=(0.3, 0.05),
    crf=dict(
        gaussian_sxy=3.0,
        gaussian_compat=3.0,
        bilateral_sxy=50.0,
        bilateral_srgb=5.0,
        bilateral_compat=10.0))
walk = dict(
    _delete_=True,
    beta=10.0,
    num_steps=256,
    radius=5,
    background_power=None,
    background_constant=0.25)
model = dict(
    data_preprocessor=dict(size=crop_size),
    # Its stem is a level too: hence timm's, which gives it. Weights of ImageNet.
    backbone=dict(
        _delete_=True,
        type='TIMMBackbone',
        model_name='resnet50',
        features_only=True,
        pretrained=True,
        out_indices=(0, 1, 2, 3, 4),
        output_stride=16),
    # All levels; the grid of the second: stride 4.
    affinity_head=dict(
        _delete_=True,
        type='BoundaryAffinityHead',
        in_channels=(64, 256, 512, 1024, 2048),
        grid_index=1),
    train_radius=10,
    freeze_backbone=True)
train_dataloader = dict(
    batch_size=32,
    dataset=dict(
        dataset=dict(
            pipeline=[
                _base_.load_image, _base_.load_labels,
                dict(type='RandomResize', scale=(500, 500), ratio_range=(0.5, 1.5),
                     keep_ratio=True),
                dict(type='RandomCrop', crop_size=crop_size),
                dict(type='RandomFlip', prob=0.5),
                dict(type='PackTaggedInputs')
            ])))
max_iters = 993  # 3 epochs
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters)
