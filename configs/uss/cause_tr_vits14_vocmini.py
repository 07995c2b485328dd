# CAUSE-TR's codebook and head on a frozen ViT-S/14, from scratch on images without labels.
#   python tools/train.py configs/uss/cause_tr_vits14_vocmini.py --data-root data/vocmini
_base_ = ['raw_vits14_vocmini.py']
grid = 14  # the head has one query for each cell
codebook_iters = 100
max_iters = 300
train_dataloader = dict(batch_size=8, dataset=dict(grid=grid))
model = dict(type='CAUSETraining', grid=grid, codebook_iters=codebook_iters)
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=50), logger=dict(interval=10))
