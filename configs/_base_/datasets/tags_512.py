# What the five benchmarks share: image-level tags, crops of 512. Each adds folders and classes.
crop_size = (512, 512)
background_index = 0
# Masks or seeds of an existing method, a file for every training image (docs/en/base_masks.md);
# without any: own seeds.
#   MMSEG_DHR_BASE=data/rsepm python tools/train.py ...
base_dir = '{{$MMSEG_DHR_BASE:none}}'
base_dir = None if base_dir == 'none' else base_dir
base_masks = None if base_dir is None else dict(
    out_dir='{work_dir}/base_masks', seeds=base_dir, threads=8)
load_image = dict(type='LoadImageFromFile', imdecode_backend='pillow')
# `num_classes` comes from the data set.
load_base = dict(
    type='LoadPseudoMask',
    mask_dir=base_masks and base_masks['out_dir'],
    required=base_masks is not None)
augment = dict(
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
    ])
pack = dict(type='PackTaggedInputs')
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
    dataset=dict(type='TaggedDataset', seed=0))
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
