# PASCAL VOC 2012 + SBD, image-level tags: 10,582 training and 1,449 validation images.
# Folder (`--data-root` or MMSEG_DHR_DATA; default data/VOCdevkit/VOC2012), as mmseg prepares it:
#   JPEGImages/  SegmentationClass/  SegmentationClassAug/
#   ImageSets/Segmentation/{train,aug,val}.txt
# `python tools/dataset_converters/voc_trainaug.py FOLDER` then writes trainaug.txt (both training
# parts) and puts their masks into one folder.
_base_ = './tags_512.py'
data_root = '{{$MMSEG_DHR_DATA:data/VOCdevkit/VOC2012}}'
num_classes = 21
images = dict(type='PascalVOCDataset', data_root=data_root)
train_images = dict(
    images,
    data_prefix=dict(img_path='JPEGImages'),
    ann_file='ImageSets/Segmentation/trainaug.txt')
# The classes that each true mask shows; the masks are not trained on. A list of tags does
# as well: dict(type='npy', path='cls_labels.npy') or dict(type='json', path='image_labels.json').
labels = dict(type='masks', path='SegmentationClassAug')
tagged = dict(type='TaggedDataset', labels=labels)
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
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        ann_file='ImageSets/Segmentation/val.txt'))
test_dataloader = val_dataloader
# Masks that score pseudo-labels; training never reads them.
score_masks = 'SegmentationClassAug'
