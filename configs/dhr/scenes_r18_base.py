# The same network, warm-up and M_base as scenes_r18.py, then trained on M_base as it is: the
# "weak" end of the gap.
_base_ = './scenes_r18.py'
model = dict(uss_encoder=None, propagation=None)
train_pipeline = [step for step in _base_.train_pipeline if step['type'] != 'LoadUSSFeatures']
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
custom_hooks = _base_.custom_hooks[1:]
