# COCO 2014 objects, image-level tags: 82,081 training and 40,137 validation images that show one.
# Folder (`--data-root` or MMSEG_DHR_DATA; default data/coco), as it is downloaded:
#   train2014/  val2014/  annotations/instances_{train,val}2014.json
# `python tools/dataset_converters/coco_objects.py FOLDER` then writes lists/, image_labels.json and
# masks/. The lists without `_objects` hold all 82,783 and 40,504 images.
_base_ = './tags_512.py'
data_root = '{{$MMSEG_DHR_DATA:data/coco}}'
num_classes = 81
images = dict(type='COCOObjectDataset', data_root=data_root)
train_images = dict(
    images,
    data_prefix=dict(img_path='train2014'),
    ann_file='lists/train2014_objects.txt')
# An image without object is background alone.
labels = dict(type='json', path='image_labels.json', allow_empty=True)
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
        data_prefix=dict(img_path='val2014', seg_map_path='masks/val2014'),
        ann_file='lists/val2014_objects.txt'))
test_dataloader = val_dataloader
# Masks that score pseudo-labels; training never reads them.
score_masks = 'masks/train2014'
