# RETAB on PASCAL VOC, fold 0, step 3: DeepLabv1 on Wide-ResNet-38, as plain MMSegmentation, from
# true masks of base samples and the masks of step 2 of novel ones.
#   python tools/train.py configs/retab/voc_fold0_segmentor.py
_base_ = ['../dhr/voc_wr38_deeplabv1.py']
novel = 'pascal-5i/0'
model = dict(_delete_=True, **_base_.model.segmentor)
load_mixed = dict(
    type='LoadMixedMask', mask_dir='{work_dir}/masks', num_classes=_base_.num_classes)
train_dataloader = dict(
    dataset=dict(
        type='WeakShotDataset',
        novel=novel,
        dataset=dict(
            data_prefix=dict(seg_map_path='SegmentationClassAug'),
            pipeline=[_base_.load_image, load_mixed, _base_.augment, _base_.pack])))
custom_hooks = []
val_evaluator = dict(type='BaseNovelIoUMetric', novel=novel)
test_evaluator = val_evaluator
