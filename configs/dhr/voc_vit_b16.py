# voc_r101.py with a plain ViT-B/16, whose CAM has stride 16, and the mask transformer of Segmenter;
# both are MMSegmentation's, and MMEngine fetches the weights.
# `_base_` stands before the import: mmengine takes a file that imports first for another kind of
# config.
_base_ = './voc_r101.py'
from mmengine.hub import get_config  # noqa: E402

segmenter = get_config('mmseg::segmenter/segmenter_vit-b_mask_8xb1-160k_ade20k-512x512.py').model
segmenter.backbone.init_cfg = dict(type='Pretrained', checkpoint=segmenter.pop('pretrained'))
# The feature maps of Step 3: the blocks at three quarters and at the end.
segmenter.backbone.out_indices = (8, 11)
segmenter.decode_head.num_classes = _base_.num_classes
model = dict(
    segmentor=dict(segmenter, _delete_=True),
    cam_head=dict(in_channels=768, pool_stride=1))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=1.))))
