# voc_r101.py with DeepLabv2 on ResNet-50 (Table 4).
_base_ = './voc_r101_deeplabv2.py'
model = dict(
    segmentor=dict(
        backbone=dict(depth=50, init_cfg=dict(checkpoint='open-mmlab://resnet50_v1c'))))
