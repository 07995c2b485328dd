# RETAB on the embedded scenes; two look-alikes and a small class are novel. Step 0: the CAMs of a
# classifier of the tags. `make demo-retab` runs all steps.
_base_ = [
    '../_base_/datasets/scenes.py', '../_base_/deeplabv3plus_r18_scenes.py',
    '../_base_/schedules/scenes.py', '../_base_/dhr_runtime.py'
]
num_classes = 9
load_image = _base_.load_image
augmentation = [
    dict(type='RandomResize', scale=(112, 112), ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=_base_.crop_size),
    dict(type='RandomFlip', prob=0.5)
]
pack = dict(type='PackTaggedInputs')
model = dict(
    type='CAMClassifier',
    data_preprocessor=_base_.segmentor.data_preprocessor,
    backbone=_base_.segmentor.backbone,
    cam_head=dict(type='CAMHead', in_channels=192, num_classes=num_classes))
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=[load_image, *augmentation, pack])))
pseudo_label_dataset = dict(dataset=dict(pipeline=[load_image, pack]))
custom_hooks = []
max_iters = 320
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
# Networks, CAMs and masks of one step are read by the next; only the last one is tested.
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
default_hooks = dict(checkpoint=dict(interval=80))
