# Mask2Former on Swin-L, its weights and its optimizer, as MMSegmentation has them. Needs mmdet.
# (mmengine would take a file with an import statement for another kind of config.)
get_config = __import__('mmengine.hub', fromlist=['get_config']).get_config
stock = get_config(
    'mmseg::mask2former/mask2former_swin-l-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py')
mask2former = stock.model
mask2former_optim = stock.optim_wrapper
del stock
