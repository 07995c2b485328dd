# SEAM on small VOC photographs: ten minutes or so on a CPU core.
#   python tools/train.py configs/seeds/seam_vocmini.py --data-root data/vocmini
#   python tools/make_cams.py configs/seeds/seam_vocmini.py \
#       work_dirs/seam_vocmini/iter_300.pth work_dirs/seam_vocmini/cams --scales 1
# The second image has half the size, not 0.3 of it: 0.3 of a 256 px crop at output stride 16 are
# five cells a side, too few to compare; the paper has 17. At weight 1, the paper's, L_ER shrinks
# the CAMs to a few cells in so short a training.
_base_ = ['cam_vocmini.py']
model = dict(
    type='SEAM',
    tap_indices=(1, 2),
    tap_in_channels=(40, 112),
    tap_channels=(64, 128),
    rescale=0.5,
    er_weight=0.2)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'pcm': dict(lr_mult=10.)}))
