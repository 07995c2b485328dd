# RETAB (Zhou et al., BMVC 2022) on PASCAL VOC, fold 0 of PASCAL-5i. Step 1: boundaries, from the
# true masks of base samples. The ImageNet weights are those of configs/seeds/psa_voc.py.
#   python tools/train.py configs/retab/voc_fold0_boundary.py
#   python tools/make_boundaries.py configs/retab/voc_fold0_boundary.py \
#       work_dirs/voc_fold0_boundary/iter_7746.pth work_dirs/voc_fold0_affinity/boundaries
_base_ = ['../seeds/psa_voc.py']
novel = 'pascal-5i/0'
model = dict(
    type='BoundaryNetwork',
    affinity_head=dict(
        _delete_=True,
        type='BoundaryAffinityHead',
        in_channels=(512, 1024, 4096),
        channels=64,
        norm_cfg=None),
    source='edges')  # SBD's masks have no band of 255 between objects
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
max_iters = 7746  # 8 epochs of the base samples
optim_wrapper = dict(optimizer=dict(lr=0.001))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters)
