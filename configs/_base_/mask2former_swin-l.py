# Mask2Former on Swin-L, its weights and its optimizer, as MMSegmentation has them. Needs mmdet.
# `_base_` stands before the import: mmengine takes a file that imports first for another kind of
# config.
_base_ = []
from mmengine.hub import get_config  # noqa: E402

stock = get_config(
    'mmseg::mask2former/mask2former_swin-l-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py')
mask2former = stock.model
mask2former_optim = stock.optim_wrapper
del stock
