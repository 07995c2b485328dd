# A few minutes on two CPU cores: tags alone, then M_base from the network's CAMs, then DHR online.
max_iters = 580
warmup_iters = 320
custom_hooks = [
    dict(type='USSFeatureHook', out_dir='{work_dir}/uss_features'),
    dict(
        type='RecursiveLearningHook',
        warmup_iters=warmup_iters,
        base_masks=dict(
            out_dir='{work_dir}/base_masks', scales=(1.0, ), background_constant=0.3, threads=2))
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=3.))))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(type='ResumableIterLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
randomness = dict(seed=0)
