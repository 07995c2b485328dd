# vocmini_effnetlite0 at 192 px crops: what the ablations train, several times, with several seeds.
_base_ = ['vocmini_effnetlite0.py']
crop_size = (192, 192)
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
                _base_.load_image, _base_.load_base,
                dict(type='TrackGeometry', transforms=augmentation), _base_.load_uss,
                dict(type='PackTaggedInputs')
            ])))
model = dict(data_preprocessor=dict(size=crop_size))
