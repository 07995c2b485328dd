# RETAB on the embedded scenes, step 3: any segmentor of mmseg, from true masks of base samples and
# the masks of step 2 of novel ones.
_base_ = [
    '../_base_/datasets/scenes.py', '../_base_/deeplabv3plus_r18_scenes.py',
    '../_base_/schedules/scenes.py', '../_base_/dhr_runtime.py'
]
novel = ['dot_disc', 'cross_box', 'bead']
load_mixed = dict(
    type='LoadMixedMask',
    mask_dir='{work_dir}/masks',
    num_classes=_base_.num_classes)
model = _base_.segmentor
train_dataloader = dict(
    dataset=dict(
        type='WeakShotDataset',
        novel=novel,
        dataset=dict(
            pipeline=[
                _base_.load_image, load_mixed,
                dict(
                    type='RandomResize', scale=(112, 112), ratio_range=(0.8, 1.25),
                    keep_ratio=True),
                dict(type='RandomCrop', crop_size=_base_.crop_size),
                dict(type='RandomFlip', prob=0.5),
                dict(type='PackTaggedInputs')
            ])))
pseudo_label_dataset = dict(
    type='WeakShotDataset',
    novel=novel,
    part='novel',
    dataset=dict(pipeline=[_base_.load_image, load_mixed, dict(type='PackTaggedInputs')]))
custom_hooks = []
load_from = 'work_dirs/scenes_cam/iter_320.pth'
val_evaluator = dict(type='BaseNovelIoUMetric', novel=novel)
test_evaluator = val_evaluator
max_iters = 320
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=80))
