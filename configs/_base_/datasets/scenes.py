# The data set that the package draws itself (on first use, into `data_root`).
# Training reads tags only.
data_root = 'data/scenes'
num_classes = 9
crop_size = (112, 112)
train_images = dict(
    type='ScenesDataset',
    data_root=data_root,
    ann_file='ImageSets/Segmentation/train.txt',
    pipeline=[])
labels = dict(type='json', path='image_labels.json')
load_image = dict(type='LoadImageFromFile')
# Two maps follow the image through its augmentation: M_base, as every label map does, and the
# cached USS features, through the geometry that TrackGeometry records.
load_base = dict(
    type='LoadPseudoMask', mask_dir='{work_dir}/base_masks', num_classes=num_classes)
load_uss = dict(type='LoadUSSFeatures', cache_dir='{work_dir}/uss_features', stride=4)
train_pipeline = [
    load_image, load_base,
    dict(
        type='TrackGeometry',
        transforms=[
            dict(type='RandomResize', scale=(112, 112), ratio_range=(0.8, 1.25), keep_ratio=True),
            dict(type='RandomCrop', crop_size=crop_size),
            dict(type='RandomFlip', prob=0.5)
        ]), load_uss,
    dict(type='PackTaggedInputs')
]
# Whole images, for making and scoring pseudo-labels outside training.
whole_pipeline = [
    load_image, load_base,
    dict(type='TrackGeometry', transforms=[]), load_uss,
    dict(type='PackTaggedInputs')
]
test_pipeline = [load_image, dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
tta_pipeline = [
    load_image,
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (1.0, 1.5)
        ], [
            dict(type='RandomFlip', prob=0., direction='horizontal'),
            dict(type='RandomFlip', prob=1., direction='horizontal')
        ], [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])
]
train_dataloader = dict(
    batch_size=12,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='PositionSampler'),
    dataset=dict(
        type='TaggedDataset', seed=0, labels=labels,
        dataset=dict(train_images, pipeline=train_pipeline)))
pseudo_label_dataset = dict(
    type='TaggedDataset', labels=labels, dataset=dict(train_images, pipeline=whole_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ScenesDataset',
        data_root=data_root,
        ann_file='ImageSets/Segmentation/val.txt',
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
# Masks that score pseudo-labels; training never reads them.
score_masks = 'SegmentationClass'
