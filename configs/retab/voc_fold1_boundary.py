# RETAB, fold 1: see voc_fold0_boundary.py.
_base_ = ['voc_fold0_boundary.py']
novel = 'pascal-5i/1'
train_dataloader = dict(dataset=dict(novel=novel))
pseudo_label_dataset = dict(novel=novel)
max_iters = 6978  # 8 epochs of the base samples
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters)
