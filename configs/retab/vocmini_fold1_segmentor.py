# RETAB, fold 1: see vocmini_fold0_segmentor.py.
_base_ = ['vocmini_fold0_segmentor.py']
novel = 'pascal-5i/1'
train_dataloader = dict(dataset=dict(novel=novel))
val_evaluator = dict(novel=novel)
test_evaluator = val_evaluator
