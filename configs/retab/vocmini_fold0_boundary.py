# RETAB (Zhou et al., BMVC 2022) on small photographs, fold 0 of PASCAL-5i. Step 1: boundaries,
# from the true masks of base samples. The commands of all steps: docs/en/retab.md.
#   python tools/train.py configs/retab/vocmini_fold0_boundary.py
#   python tools/make_boundaries.py configs/retab/vocmini_fold0_boundary.py \
#       work_dirs/vocmini_fold0_boundary/iter_200.pth work_dirs/vocmini_fold0_affinity/boundaries
_base_ = ['../seeds/irnet_vocmini.py']
novel = 'pascal-5i/0'
model = dict(type='BoundaryNetwork', freeze_backbone=False)
train_dataloader = dict(
    dataset=dict(
        type='WeakShotDataset',
        novel=novel,
        part='base',
        dataset=dict(
            data_prefix=dict(seg_map_path='SegmentationClassAug'),
            pipeline=[
                _base_.load_image,
                dict(type='LoadAnnotations'), *_base_.augmentation,
                dict(type='PackTaggedInputs')
            ])))
# Only novel samples need what nobody drew.
pseudo_label_dataset = dict(type='WeakShotDataset', novel=novel, part='novel')
max_iters = 200
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters)
