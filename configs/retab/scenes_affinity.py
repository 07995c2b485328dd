# RETAB on the embedded scenes, step 2: affinities, from true masks of base samples and, off the
# boundaries, masks of CAMs of novel ones. Then the CAMs walk, in two stages.
_base_ = ['scenes_boundary.py']
agreement = dict(background_powers=(2.0, 8.0))
walk = dict(beta=8.0, num_steps=64, radius=5, background_power=4.0)
load_mixed = dict(
    type='LoadMixedMask',
    mask_dir='{work_dir}/labels',
    boundary_dir='{work_dir}/boundaries',
    num_classes=_base_.num_classes)
model = dict(
    _delete_=True,
    type='AffinityNetwork',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    affinity_head=dict(
        type='FeatureAffinityHead', in_channels=(24, 48, 96, 192), channels=(16, 16, 32, 32)))
train_dataloader = dict(
    dataset=dict(
        part='all',
        dataset=dict(
            pipeline=[_base_.load_image, load_mixed, *_base_.augmentation, _base_.pack])))
