# The test split of PASCAL VOC 2012: 1,456 images without masks, scored by the server alone. Its
# JPEGImages and ImageSets/Segmentation/test.txt come in an archive of their own.
#   python tools/test.py configs/dhr/voc_r101_test.py work_dirs/voc_r101/iter_66100.pth --crf \
#       --format-voc submission
# writes submission/results.tgz. A config of another model takes these lines too.
_base_ = './voc_r101.py'
test_pipeline = [_base_.load_image, dict(type='PackSegInputs')]
test_dataloader = dict(
    dataset=dict(
        ann_file='ImageSets/Segmentation/test.txt',
        data_prefix=dict(_delete_=True, img_path='JPEGImages'),
        pipeline=test_pipeline))
tta_pipeline = [
    _base_.load_image,
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (1.0, 0.5, 1.5, 2.0)
        ], [
            dict(type='RandomFlip', prob=0., direction='horizontal'),
            dict(type='RandomFlip', prob=1., direction='horizontal')
        ], [dict(type='PackSegInputs')]])
]
test_evaluator = []
