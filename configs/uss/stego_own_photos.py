# STEGO's head on your own photos: no tags, no masks. Copy this file and edit the first block.
_base_ = ['raw_vits14_vocmini.py']
photos = dict(
    type='ImageLabelDataset',
    data_root='{{$MMSEG_DHR_DATA:data/photos}}',
    data_prefix=dict(img_path='images'))

train_dataloader = dict(
    dataset=dict(neighbours_dir='{work_dir}/neighbours', masks=False,
                 dataset=dict(_delete_=True, **photos)))
model = dict(type='STEGOTraining', num_classes=None)
# There are no masks to validate with.
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None
