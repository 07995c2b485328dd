# RETAB, fold 2: see vocmini_fold0_boundary.py.
_base_ = ['vocmini_fold0_boundary.py']
novel = 'pascal-5i/2'
train_dataloader = dict(dataset=dict(novel=novel))
pseudo_label_dataset = dict(novel=novel)
