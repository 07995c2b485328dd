"""The scenes as a data set of MMSegmentation."""
from __future__ import annotations

from typing import Any

from mmengine.dist import is_main_process
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .classes import CLASSES, PALETTE
from .writer import SceneParameters, write_scenes

__all__ = ['ScenesDataset']


@DATASETS.register_module()
class ScenesDataset(BaseSegDataset):
    """A small data set that the package draws itself, to try every stage without a download.

    A scene shows one to three large objects and up to four small ones on cluttered ground of
    muted colours:

    - three groups of two look-alikes, ``{ring,dot}_disc``, ``{bar,cross}_box`` and
      ``{chevron,twin}_leaf``. A group shares outline, colour and texture; only a mark on about 6 %
      of the object tells its two classes apart;
    - ``bead`` and ``chip``, each about 1 % of the image, mostly on the rim of a large object. A
      bead looks like nothing else, a chip is of the boxes' colour family;
    - large objects mostly touch and hide one another in part. Marks stay visible, so that every
      tag can be seen.

    What this models: classes that a classifier recognises by a detail, groups that colour and
    texture tell apart without training, minor classes that touch larger ones. What it does not:
    natural images. Outlines are rigid and few, objects are more colourful than the ground, labels
    have no errors, and no class comes with a context. A figure on these scenes says that a
    pipeline works; it does not predict the order of methods on photographs.

    The folder is drawn when the data set is first loaded and used again after that; see
    :func:`~mmseg_dhr.datasets.scenes.write_scenes` for its layout.

    Args:
        data_root (str): Folder of the scenes, made if it is absent. Defaults to 'data/scenes'.
        ann_file (str): List of image ids, 'ImageSets/Segmentation/train.txt' or '.../val.txt'.
            Defaults to the train list.
        num_train (int): Images drawn for the train list. Defaults to 480.
        num_val (int): Images drawn for the val list. Defaults to 120.
        size (int): Side of the square images in pixels, at least 64. Defaults to 112.
        seed (int): Seed of the drawing. Defaults to 0.
        data_prefix (dict, optional): Folders of images and masks below ``data_root``.
            Defaults to those of the VOC layout.
        **kwargs: Other arguments of ``mmseg.datasets.BaseSegDataset``.

    Raises:
        UserError: If a parameter is out of range, or ``data_root`` holds something else or scenes
            drawn with other parameters.
    """

    METAINFO = dict(
        classes=('background', *(scene_class.name for scene_class in CLASSES)),
        palette=[list(colour) for colour in PALETTE])

    def __init__(self,
                 data_root: str = 'data/scenes',
                 ann_file: str = 'ImageSets/Segmentation/train.txt',
                 num_train: int = 480,
                 num_val: int = 120,
                 size: int = 112,
                 seed: int = 0,
                 data_prefix: dict | None = None,
                 **kwargs: Any) -> None:
        self.parameters = SceneParameters(num_train, num_val, size, seed)
        if data_prefix is None:
            data_prefix = dict(img_path='JPEGImages', seg_map_path='SegmentationClass')
        kwargs.setdefault('img_suffix', '.png')
        super().__init__(data_root=data_root, ann_file=ann_file, data_prefix=data_prefix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Draw the scenes if that has not been done, then list those of ``ann_file``.

        Returns:
            list[dict]: As of ``BaseSegDataset``.
        """
        write_scenes(self.data_root, self.parameters, progress=is_main_process())
        return super().load_data_list()
