# vocmini_effnetlite0 at 192 px crops: what the ablations train, several times, with several seeds.
_base_ = ['vocmini_effnetlite0.py']
crop_size = (192, 192)
load_image = dict(type='LoadImageFromFile', imdecode_backend='pillow')
load_base = dict(type='LoadPseudoMask', mask_dir='{work_dir}/base_masks', num_classes=21)
load_uss = dict(type='LoadUSSFeatures', cache_dir='{work_dir}/uss_features', stride=8)
augmentation = [
    dict(type='RandomResize', scale=(256, 256), ratio_range=(0.75, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion')
]
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            pipeline=[
                load_image, load_base,
                dict(type='TrackGeometry', transforms=augmentation), load_uss,
                dict(type='PackTaggedInputs')
            ])))
model = dict(data_preprocessor=dict(size=crop_size), channels_last=True)
