# RETAB on the embedded scenes, step 1: boundaries, from the true masks of base samples.
_base_ = ['scenes_cam.py']
novel = ['dot_disc', 'cross_box', 'bead']
model = dict(
    _delete_=True,
    type='BoundaryNetwork',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    affinity_head=dict(type='BoundaryAffinityHead', in_channels=(24, 48, 96, 192), channels=16),
    source='edges',  # the scenes' masks have no band of 255 between objects
    edge_radius=1)
train_dataloader = dict(
    dataset=dict(
        type='WeakShotDataset',
        novel=novel,
        part='base',
        dataset=dict(
            pipeline=[
                _base_.load_image,
                dict(type='LoadAnnotations'), *_base_.augmentation, _base_.pack
            ])))
# Only novel samples need masks that nobody drew.
pseudo_label_dataset = dict(type='WeakShotDataset', novel=novel, part='novel')
max_iters = 160
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters)
load_from = 'work_dirs/scenes_cam/iter_320.pth'
