# STEGO's head on a frozen ViT-S/14, from scratch on images without labels.
#   python tools/train.py configs/uss/stego_vits14_vocmini.py --data-root data/vocmini
_base_ = ['raw_vits14_vocmini.py']
train_dataloader = dict(dataset=dict(neighbours_dir='{work_dir}/neighbours'))
model = dict(type='STEGOTraining')
