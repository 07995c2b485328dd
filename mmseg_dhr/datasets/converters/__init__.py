"""Preparing data sets: lists, tags and masks in the layout that the configs read."""
from .coco import Instances, LabelledImage, paint_instances, read_instances, write_object_masks
from .counts import OFFICIAL_COUNTS, count_warning, print_count, print_tags
from .from_config import TrainingImages, check_config, labels_file, training_images
from .lists import cores, for_each, read_list, write_list
from .tags import tags_from_masks, tags_from_voc_xml, write_tags

__all__ = [
    'Instances', 'LabelledImage', 'OFFICIAL_COUNTS', 'TrainingImages', 'check_config', 'cores',
    'count_warning', 'for_each', 'labels_file', 'paint_instances', 'print_count', 'print_tags',
    'read_instances', 'read_list', 'tags_from_masks', 'tags_from_voc_xml', 'training_images',
    'write_list', 'write_object_masks', 'write_tags'
]
