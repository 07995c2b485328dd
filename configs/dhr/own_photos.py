# DHR on your own tagged photos, no masks anywhere. Copy this file, edit the first block, then
#   python tools/train.py my_photos.py
#   python tools/test.py my_photos.py work_dirs/my_photos/iter_1100.pth --crf --out masks
# Photos of at most about 640 px are the right size; shrink larger ones first.
_base_ = ['./vocmini_effnetlite0.py']
data_root = '{{$MMSEG_DHR_DATA:data/photos}}'  # holds everything below
images = 'images'  # folder of photos
img_suffix = '.jpg'
labels = dict(type='csv', path='labels.csv')  # json, folders: see docs/en/own_data.md
classes = ('background', 'person', 'bicycle')

num_classes = len(classes)
photos = dict(
    type='BaseSegDataset',
    data_root=data_root,
    data_prefix=dict(img_path=images),
    img_suffix=img_suffix,
    metainfo=dict(
        classes=classes,
        palette=[[80 * i % 256, 160 * i % 256, 240 * i % 256] for i in range(num_classes)]))
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
    propagation=dict(num_classes=num_classes))
# There are no masks to validate with; a test only writes predictions.
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(_delete_=True, **photos,
                 pipeline=[_base_.load_image, dict(type='PackSegInputs')]))
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
test_evaluator = dict(
    _delete_=True, type='IoUMetric', format_only=True, output_dir='{work_dir}/predictions')
