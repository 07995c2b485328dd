# PASCAL VOC 2012 + SBD, image-level tags: 10,582 training and 1,449 validation images.
# Folder (`--data-root` or MMSEG_DHR_DATA; default data/VOCdevkit/VOC2012), as mmseg prepares it:
#   JPEGImages/  SegmentationClass/  SegmentationClassAug/
#   ImageSets/Segmentation/{train,aug,val}.txt
# `python tools/dataset_converters/voc_trainaug.py FOLDER` then writes trainaug.txt (both training
# parts) and puts their masks into one folder.
data_root = '{{$MMSEG_DHR_DATA:data/VOCdevkit/VOC2012}}'
num_classes = 21
crop_size = (512, 512)
# Masks of an existing method, one {id}.png for every training image; without any: own seeds.
#   MMSEG_DHR_BASE=data/rsepm python tools/train.py ...
base_dir = '{{$MMSEG_DHR_BASE:none}}'
base_dir = None if base_dir == 'none' else base_dir
train_images = dict(
    type='PascalVOCDataset',
    data_root=data_root,
    data_prefix=dict(img_path='JPEGImages'),
    ann_file='ImageSets/Segmentation/trainaug.txt',
    pipeline=[])
# The classes that each true mask shows; the masks are not trained on. A list of tags does
# as well: dict(type='npy', path='cls_labels.npy') or dict(type='json', path='image_labels.json').
labels = dict(type='masks', path='SegmentationClassAug')
load_image = dict(type='LoadImageFromFile', imdecode_backend='pillow')
load_base = dict(
    type='LoadPseudoMask',
    mask_dir=base_dir,
    num_classes=num_classes,
    required=base_dir is not None)
train_pipeline = [
    load_image, load_base,
    dict(
        type='TrackGeometry',
        transforms=[
            dict(type='RandomResize', scale=(640, 640), ratio_range=(0.5, 1.0), keep_ratio=True),
            dict(type='RandomCrop', crop_size=crop_size),
            dict(type='RandomFlip', prob=0.5),
            # close to colour jitter .3/.3/.3/.1
            dict(
                type='PhotoMetricDistortion',
                brightness_delta=32,
                contrast_range=(0.7, 1.3),
                saturation_range=(0.7, 1.3),
                hue_delta=18)
        ]),
    dict(type='PackTaggedInputs')
]
# Whole images, for making and scoring pseudo-labels outside training.
whole_pipeline = [load_image, load_base, dict(type='PackTaggedInputs')]
test_pipeline = [load_image, dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
tta_pipeline = [
    load_image,
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (1.0, 0.5, 1.5, 2.0)
        ], [
            dict(type='RandomFlip', prob=0., direction='horizontal'),
            dict(type='RandomFlip', prob=1., direction='horizontal')
        ], [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])
]
train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='PositionSampler'),
    dataset=dict(
        type='TaggedDataset', seed=0, labels=labels,
        dataset=dict(train_images, pipeline=train_pipeline)))
pseudo_label_dataset = dict(
    type='TaggedDataset', labels=labels, dataset=dict(train_images, pipeline=whole_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='PascalVOCDataset',
        data_root=data_root,
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        ann_file='ImageSets/Segmentation/val.txt',
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
# Masks that score pseudo-labels; training never reads them.
score_masks = 'SegmentationClassAug'
