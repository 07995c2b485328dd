# RETAB, fold 0, step 3: a segmentor from true masks of base samples and the masks of step 2 of
# novel ones. `(seggt)` is the same on masks of configs/seeds/psa_vocmini.py.
#   python tools/train.py configs/retab/vocmini_fold0_segmentor.py \
#       --cfg-options load_from=warmup.pth
_base_ = ['../dhr/vocmini_student.py']
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
                dict(type='TrackGeometry', transforms=_base_.augmentation),
                dict(type='PackTaggedInputs')
            ])))
val_evaluator = dict(type='BaseNovelIoUMetric', novel=novel)
test_evaluator = val_evaluator
