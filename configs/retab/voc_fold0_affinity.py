# RETAB on PASCAL VOC, fold 0, step 2: see vocmini_fold0_affinity.py.
#   C=configs/retab/voc_fold0_affinity.py W=work_dirs/voc_fold0_affinity
#   python tools/make_affinity_labels.py $C $W/labels --cams CAMS --threads 8
#   python tools/train.py $C
#   python tools/make_affinity_masks.py $C $W/iter_10584.pth work_dirs/voc_fold0_segmentor/masks \
#       --cams CAMS --boundaries $W/boundaries
_base_ = ['../seeds/psa_voc.py']
novel = 'pascal-5i/0'
load_mixed = dict(
    type='LoadMixedMask',
    mask_dir='{work_dir}/labels',
    boundary_dir='{work_dir}/boundaries',
    num_classes=_base_.num_classes)
train_dataloader = dict(
    dataset=dict(
        type='WeakShotDataset',
        novel=novel,
        dataset=dict(
            data_prefix=dict(seg_map_path='SegmentationClassAug'),
            pipeline=[
                _base_.load_image, load_mixed, *_base_.augmentation,
                dict(type='PackTaggedInputs')
            ])))
# Only novel samples need masks that nobody drew.
pseudo_label_dataset = dict(type='WeakShotDataset', novel=novel, part='novel')
