# RETAB and DHR together, fold 0, instead of vocmini_fold0_segmentor.py: DHR's recursion on novel
# samples, whose M_base are the masks of step 2 (in WORK_DIR/masks); base samples keep their true
# masks.
#   mkdir -p work_dirs/vocmini_fold0_dhr
#   cp -r work_dirs/vocmini_fold0_segmentor/masks work_dirs/vocmini_fold0_dhr/
#   python tools/train.py configs/retab/vocmini_fold0_dhr.py --cfg-options load_from=warmup.pth
_base_ = ['vocmini_fold0_segmentor.py']
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            pipeline=[
                _base_.load_image, _base_.load_mixed,
                dict(type='TrackGeometry', transforms=_base_.augmentation), _base_.load_uss,
                dict(type='PackTaggedInputs')
            ])))
# The segmentor's config sets both to None.
model = dict(
    uss_encoder=dict(_base_.uss_encoder, _delete_=True),
    propagation=dict(
        _delete_=True, type='DHRPropagation', num_classes=_base_.num_classes))
custom_hooks = [_base_.uss_hook, dict(type='RecursiveLearningHook', warmup_iters=0)]
