# Mixing: an unmodified SegFormer of MMSegmentation, its class count set, inside the wrapper.
_base_ = [
    'mmseg::_base_/models/segformer_mit-b0.py', '../_base_/datasets/scenes.py',
    '../_base_/schedules/scenes.py', '../_base_/dhr_runtime.py'
]
num_classes = 9
segmentor = _base_.model
segmentor.decode_head.num_classes = num_classes
model = dict(
    _delete_=True,
    type='DualEncoderSegmentor',
    segmentor=segmentor,
    data_preprocessor=dict(size=(112, 112)),
    cam_head=dict(type='CAMHead', in_channels=256, num_classes=num_classes),
    uss_encoder=dict(type='ColorTextureUSS', stride=4),
    propagation=dict(type='DHRPropagation', num_classes=num_classes))
default_hooks = dict(checkpoint=dict(interval=100))
