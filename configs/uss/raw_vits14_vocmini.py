# The probes of STEGO on the raw features of a frozen ViT: what a trained head has to beat.
# Masks measure here (linear probe, matching of clusters); no head is trained on them.
_base_ = ['../_base_/dhr_runtime.py']
num_classes = 21
grid = 16
images = dict(
    type='PascalVOCDataset',
    data_root='{{$MMSEG_DHR_DATA:data/vocmini}}',
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug'))
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='PositionSampler'),
    dataset=dict(
        type='NeighbourPairDataset',
        features_dir='{work_dir}/uss_features',
        grid=grid,
        masks=True,
        dataset=dict(images, ann_file='ImageSets/Segmentation/train.txt', pipeline=[])))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        images,
        ann_file='ImageSets/Segmentation/val.txt',
        pipeline=[
            dict(type='LoadImageFromFile', imdecode_backend='pillow'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')
        ]))
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='ClusterMetric', num_clusters=num_classes),
    dict(type='ClusterMetric', num_clusters=num_classes, key='pred_linear', match=False,
         prefix='linear_probe')
]
test_evaluator = val_evaluator
model = dict(
    type='USSProbes',
    encoder=dict(
        type='ViTUSS',
        model_name='vit_small_patch14_dinov2',
        checkpoint='{{$MMSEG_DHR_USS:checkpoints/vit_small_patch14_dinov2.safetensors}}'),
    num_clusters=num_classes,
    num_classes=num_classes)
custom_hooks = [dict(type='NeighbourTableHook')]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=5e-4),
    paramwise_cfg=dict(custom_keys={'_probe': dict(lr_mult=10.)}))
max_iters = 400
train_cfg = dict(type='ResumableIterLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(interval=200))
