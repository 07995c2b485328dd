# DHR on your own tagged photos, no masks anywhere: docs/en/own_data.md. Your config is
#   _base_ = ['configs/dhr/own_photos.py']  # where this file is, as seen from yours
#   from mmseg_dhr.datasets import use_photos
#
#   use_photos(_base_, data_root='photos', images='images', labels='labels.csv')
# Photos of at most about 640 px are the right size; shrink larger ones first.
_base_ = ['./vocmini_effnetlite0.py']
# Stand-ins that `use_photos` replaces.
data_root = '{{$MMSEG_DHR_DATA:data/photos}}'
labels = dict(type='csv', path='labels.csv')
classes = ('background', 'person', 'bicycle')
num_classes = len(classes)
photos = dict(
    type='ImageLabelDataset',
    data_root=data_root,
    data_prefix=dict(img_path='images'),
    metainfo=dict(classes=classes, palette=[[0, 0, 0], [128, 0, 0], [0, 128, 0]]))
load_base = dict(
    type='LoadPseudoMask', mask_dir='{work_dir}/base_masks', num_classes=num_classes)


def with_own_base(pipeline):
    return [load_base if step['type'] == 'LoadPseudoMask' else step for step in pipeline]


def tagged(pipeline, **options):
    return dict(_delete_=True, type='TaggedDataset', labels=labels,
                dataset=dict(photos, pipeline=with_own_base(pipeline)), **options)


train_dataloader = dict(dataset=tagged(_base_.train_pipeline, seed=0))
pseudo_label_dataset = tagged(_base_.whole_pipeline)
model = dict(
    segmentor=dict(decode_head=dict(num_classes=num_classes)),
    cam_head=dict(num_classes=num_classes),
    # Needs no weights. A self-supervised transformer is better: docs/en/own_data.md.
    uss_encoder=dict(_delete_=True, type='ColorTextureUSS', stride=8),
    propagation=dict(num_classes=num_classes))
# Colours do not tell objects from ground: with a transformer, leave this out.
custom_hooks = [
    _base_.uss_hook,
    dict(
        type='RecursiveLearningHook',
        warmup_iters=_base_.warmup_iters,
        base_masks=dict(_base_.base_masks, debias=None))
]
# There are no masks to validate with; a test only writes predictions.
val_dataloader = None
val_evaluator = None
val_cfg = None
test_pipeline = [_base_.load_image, dict(type='PackSegInputs')]
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(_delete_=True, **photos, pipeline=test_pipeline))
tta_pipeline = [
    _base_.load_image,
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (1.0, 0.5, 1.5)
        ], [
            dict(type='RandomFlip', prob=0., direction='horizontal'),
            dict(type='RandomFlip', prob=1., direction='horizontal')
        ], [dict(type='PackSegInputs')]])
]
test_evaluator = []
