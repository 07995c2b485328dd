# RETAB, fold 0, step 2: affinities, from true masks of base samples and, off the boundaries, from
# masks of CAMs of novel ones. Then the CAMs walk, in two stages.
#   C=configs/retab/vocmini_fold0_affinity.py W=work_dirs/vocmini_fold0_affinity
#   python tools/make_affinity_labels.py $C $W/labels --cams CAMS
#   python tools/train.py $C
#   python tools/make_affinity_masks.py $C $W/iter_400.pth work_dirs/vocmini_fold0_segmentor/masks \
#       --cams CAMS --boundaries $W/boundaries
# (affgt) knows no boundaries and walks in one stage: no `--boundaries`, and train with
#   --cfg-options train_dataloader.dataset.dataset.pipeline.1.boundary_dir=None
_base_ = ['../seeds/psa_vocmini.py']
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
