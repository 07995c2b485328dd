# RETAB, fold 1: see vocmini_fold0_affinity.py.
_base_ = ['vocmini_fold0_affinity.py']
novel = 'pascal-5i/1'
train_dataloader = dict(dataset=dict(novel=novel))
pseudo_label_dataset = dict(novel=novel)
