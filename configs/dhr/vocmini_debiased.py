# vocmini_effnetlite0 from masks without biased objects, which trained the best segmentors here:
# docs/en/debiasing.md.
#   python tools/train.py configs/dhr/vocmini_debiased.py --data-root data/vocmini
_base_ = ['vocmini_effnetlite0.py']
features = '{work_dir}/uss_features'
custom_hooks = [
    dict(type='USSFeatureHook', out_dir=features),
    dict(
        type='RecursiveLearningHook',
        warmup_iters=_base_.warmup_iters,
        base_masks=dict(
            out_dir='{work_dir}/base_masks',
            scales=(1.0, ),
            background_constant=0.3,
            threads=1,
            debias=dict(features=features)))
]
