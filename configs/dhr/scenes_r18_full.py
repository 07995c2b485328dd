# The same network and warm-up as scenes_r18.py, then trained on the true masks: the "full"
# end of the gap.
_base_ = './scenes_r18.py'
model = dict(uss_encoder=None, propagation=None)
load_truth = dict(
    type='LoadPseudoMask', mask_dir='data/scenes/SegmentationClass', num_classes=9, required=True)
train_pipeline = [
    load_truth if step['type'] == 'LoadPseudoMask' else step for step in _base_.train_pipeline
    if step['type'] != 'LoadUSSFeatures'
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
custom_hooks = [dict(type='RecursiveLearningHook', warmup_iters=_base_.warmup_iters)]
