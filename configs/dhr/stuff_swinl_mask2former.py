# DHR with Mask2Former on Swin-L, as voc_swinl_mask2former.py; data and schedule of stuff_r101.py.
_base_ = ['./stuff_r101.py', '../_base_/mask2former_swin-l.py']
mask2former = _base_.mask2former
mask2former.data_preprocessor.size = _base_.crop_size
mask2former.decode_head.num_classes = _base_.num_classes
mask2former.decode_head.loss_cls.class_weight = [1.0] * _base_.num_classes + [0.1]
model = dict(
    segmentor=dict(mask2former, _delete_=True),
    cam_head=dict(in_channels=1536, pool_stride=1))
optim_wrapper = dict(_base_.mask2former_optim, _delete_=True)
