# voc_r101.py with DeepLabv2 (Table 4).
_base_ = './voc_r101.py'
model = dict(
    segmentor=dict(
        decode_head=dict(
            _delete_=True,
            type='DeepLabV2Head',
            in_channels=2048,
            in_index=3,
            dilations=(6, 12, 18, 24),
            dropout_ratio=0.,
            num_classes=_base_.num_classes)))
