# Pascal Context without background, image-level tags: 4,998 training and 5,105 validation images.
# Folder (`--data-root` or MMSEG_DHR_DATA; default data/VOCdevkit/VOC2010), as mmseg prepares it:
#   JPEGImages/  SegmentationClassContext/  ImageSets/SegmentationContext/{train,val}.txt
# `python tools/dataset_converters/tags_from_masks.py CONFIG` then writes image_labels.json.
_base_ = './tags_512.py'
data_root = '{{$MMSEG_DHR_DATA:data/VOCdevkit/VOC2010}}'
num_classes = 59
background_index = None
images = dict(type='PascalContextDataset59', data_root=data_root)
train_images = dict(
    images,
    data_prefix=dict(img_path='JPEGImages'),
    ann_file='ImageSets/SegmentationContext/train.txt')
# An image whose mask names no class has no tag, and teaches that it shows none of the classes.
labels = dict(type='json', path='image_labels.json', allow_empty=True)
tagged = dict(type='TaggedDataset', labels=labels, background_index=background_index)
load_base = dict(_base_.load_base, num_classes=num_classes)
train_pipeline = [_base_.load_image, load_base, _base_.augment, _base_.pack]
# Whole images, for making and scoring pseudo-labels outside training.
whole_pipeline = [_base_.load_image, load_base, _base_.pack]
train_dataloader = dict(
    dataset=dict(tagged, dataset=dict(train_images, pipeline=train_pipeline)))
pseudo_label_dataset = dict(tagged, dataset=dict(train_images, pipeline=whole_pipeline))
val_dataloader = dict(
    dataset=dict(
        images,
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassContext'),
        ann_file='ImageSets/SegmentationContext/val.txt'))
test_dataloader = val_dataloader
# Masks that score pseudo-labels; training never reads them.
score_masks = 'SegmentationClassContext'
