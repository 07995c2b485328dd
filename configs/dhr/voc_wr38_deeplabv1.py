# voc_r101.py with DeepLabv1 (a large field of view) on Wide-ResNet-38 (Table 4). The ImageNet
# weights are those that PSA and SEAM link to; put the file, .params or .pth, where it is named.
_base_ = './voc_r101.py'
model = dict(
    segmentor=dict(
        backbone=dict(
            _delete_=True,
            type='WideResNet38',
            init_cfg=dict(
                type='WideResNet38Init',
                checkpoint='checkpoints/ilsvrc-cls_rna-a1_cls1000_ep-0001.params')),
        decode_head=dict(
            _delete_=True,
            type='FCNHead',
            in_channels=4096,
            in_index=4,
            channels=512,
            num_convs=1,
            dilation=12,
            concat_input=False,
            dropout_ratio=0.5,
            num_classes=_base_.num_classes)),
    cam_head=dict(in_channels=4096))
