# RETAB and DHR together, fold 0, instead of vocmini_fold0_segmentor.py: DHR's recursion on novel
# samples, whose M_base are the masks of step 2 (in WORK_DIR/masks); base
# samples keep their true masks.
#   python tools/train.py configs/retab/vocmini_fold0_dhr.py --cfg-options load_from=warmup.pth
_base_ = ['../dhr/vocmini_small.py']
novel = 'pascal-5i/0'
load_mixed = dict(
    type='LoadMixedMask', mask_dir='{work_dir}/masks', num_classes=_base_.num_classes)
train_dataloader = dict(
    dataset=dict(
        type='WeakShotDataset',
        novel=novel,
        dataset=dict(
            data_prefix=dict(seg_map_path='SegmentationClassAug'),
            pipeline=[
                _base_.load_image, load_mixed,
                dict(type='TrackGeometry', transforms=_base_.augmentation), _base_.load_uss,
                dict(type='PackTaggedInputs')
            ])))
custom_hooks = [
    dict(type='USSFeatureHook', out_dir='{work_dir}/uss_features'),
    dict(type='RecursiveLearningHook', warmup_iters=0)
]
# As vocmini_student.py, for the two to be compared.
optim_wrapper = dict(
    optimizer=dict(lr=2e-4),
    paramwise_cfg=dict(custom_keys={'decode_head': dict(lr_mult=30.)}))
max_iters = 400
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
val_evaluator = dict(type='BaseNovelIoUMetric', novel=novel)
test_evaluator = val_evaluator
