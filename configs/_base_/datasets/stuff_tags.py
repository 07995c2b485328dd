# COCO-Stuff (164k), image-level tags: 118,287 training and 5,000 validation images.
# Folder (`--data-root` or MMSEG_DHR_DATA; default data/coco_stuff164k), as mmseg prepares it:
#   images/{train,val}2017/  annotations/{train,val}2017/{id}_labelTrainIds.png
# `python tools/dataset_converters/tags_from_masks.py CONFIG` then writes image_labels.json.
_base_ = './tags_512.py'
data_root = '{{$MMSEG_DHR_DATA:data/coco_stuff164k}}'
num_classes = 171
background_index = None
images = dict(type='COCOStuffDataset', data_root=data_root)
train_images = dict(
    images,
    data_prefix=dict(img_path='images/train2017'))
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
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017')))
test_dataloader = val_dataloader
# Masks that score pseudo-labels; training never reads them.
score_masks = 'annotations/train2017'
