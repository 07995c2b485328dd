# IRNet's class boundaries (Ahn et al., CVPR 2019) on small photographs, for one CPU core. CAMS is a
# folder of tools/make_cams.py; for CAMs of AdvCAM add `--cfg-options walk.cam_power=1.5`.
#   C=configs/seeds/irnet_vocmini.py W=work_dirs/irnet_vocmini
#   python tools/make_affinity_labels.py $C $W/labels --cams CAMS
#   python tools/train.py $C
#   python tools/make_affinity_masks.py $C $W/iter_300.pth $W/masks --cams CAMS
_base_ = ['psa_vocmini.py']
agreement = dict(
    _delete_=True,
    background_powers=None,
    background_constants=(0.3, 0.05),
    crf=dict(
        gaussian_sxy=3.0,
        gaussian_compat=3.0,
        bilateral_sxy=50.0,
        bilateral_srgb=5.0,
        bilateral_compat=10.0))
# The paper's 256 steps and .25 are for images and CAMs of another kind: see docs/en/affinity.md.
walk = dict(
    _delete_=True,
    beta=10.0,
    num_steps=64,
    radius=5,
    background_power=None,
    background_constant=0.4)
model = dict(
    backbone=dict(out_indices=(0, 1, 2, 3, 4)),
    # All levels; the grid of the second: stride 4.
    affinity_head=dict(
        _delete_=True,
        type='BoundaryAffinityHead',
        in_channels=(16, 24, 40, 112, 320),
        grid_index=1),
    freeze_backbone=True)
max_iters = 300
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters)
