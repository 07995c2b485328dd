# DHR on the embedded scenes: tags -> CAM -> M_base -> DHR online. A few minutes on two CPU cores.
#   python tools/train.py configs/dhr/scenes_r18.py
_base_ = [
    '../_base_/datasets/scenes.py', '../_base_/deeplabv3plus_r18_scenes.py',
    '../_base_/schedules/scenes.py', '../_base_/dhr_runtime.py'
]
num_classes = 9
model = dict(
    type='DualEncoderSegmentor',
    segmentor=_base_.segmentor,
    cam_head=dict(type='CAMHead', in_channels=192, num_classes=num_classes),
    uss_encoder=dict(type='ColorTextureUSS', stride=4),
    propagation=dict(type='DHRPropagation', num_classes=num_classes))
default_hooks = dict(checkpoint=dict(interval=100))
