"""Masks of any method without their biased objects, after MARS (Jo et al., ICCV 2023)."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dist import get_dist_info
from torch import Tensor
from tqdm import tqdm

from ..evaluation import MaskScores, Scores
from ..formats import (
    mean_feature,
    origin_of,
    read_features,
    read_mask,
    state_fingerprint,
    write_mask,
)
from ..ops import (
    centroid_similarity,
    class_area_fractions,
    class_average_pool,
    class_clusters,
    remove_biased,
    select_debiased,
)
from ..utils import UserError
from ..utils.checks import spare_inputs
from .common import Photo, in_background, list_photos, open_shard, read_truth
from .seed_folder import SeedFolder, open_seeds

__all__ = ['DebiasSettings', 'Debiaser', 'learn_debiaser', 'score_debiased',
           'write_debiased_masks']


class DebiasSettings(NamedTuple):
    """How biased objects are found and removed.

    Attributes:
        clusters: Of each class in an image, K_fg of the paper.
        keep: Share α of a class's centroids that are kept, those least like the background.
        threshold: T in [0, 1) of the similarity to them, scaled per image and class, see
            :func:`mmseg_dhr.ops.remove_biased`.
        center: Subtract the mean feature of the data set first: the features of some ViTs share a
            direction.
        ignore: Biased pixels become 255 instead of background.
    """
    clusters: int = 2
    keep: float = 0.1
    threshold: float = 0.5
    center: bool = True
    ignore: bool = False


class Inputs(NamedTuple):
    """The masks and features of a data set.

    Attributes:
        photos: All images.
        masks: Their masks.
        features: Folder of ``{id}.safetensors``.
        center: (D,), what is subtracted from the features, or None.
    """
    photos: Sequence[Photo]
    masks: SeedFolder
    features: Path
    center: Tensor | None

    def mask(self, photo: Photo) -> Tensor:
        """Label ids (H, W)."""
        return torch.from_numpy(read_mask(self.masks.path(photo))).long()

    def feature_map(self, photo: Photo) -> Tensor:
        """Float32 (D, h, w)."""
        features = read_features(self.features / f'{photo.img_id}.safetensors').float()
        return features if self.center is None else features - self.center[:, None, None]


class Debiaser(NamedTuple):
    """Removes biased objects from the masks of a data set.

    Attributes:
        inputs: The masks and features.
        centroids: Debiased centroids (M, D) by label id.
        settings: How to remove.
    """
    inputs: Inputs
    centroids: Mapping[int, Tensor]
    settings: DebiasSettings

    def __call__(self, photo: Photo) -> np.ndarray:
        """The debiased mask of an image, uint8 (H, W)."""
        labels = [tag for tag in photo.tags if tag in self.centroids]
        maps = centroid_similarity(self.inputs.feature_map(photo),
                                   [self.centroids[label] for label in labels])
        background = self.inputs.masks.classes.background
        assert background is not None
        mask = remove_biased(self.inputs.mask(photo), maps, torch.tensor(labels, dtype=torch.long),
                             self.settings.threshold, 255 if self.settings.ignore else background)
        return mask.byte().numpy()


def learn_debiaser(dataset: Any, mask_dir: str | Path, feature_dir: str | Path,
                   settings: DebiasSettings) -> Debiaser:
    """Find the debiased centroids of a data set's classes.

    Args:
        dataset (TaggedDataset): The images and their tags; with a background class.
        mask_dir: Folder of masks ``{id}.png`` of any method.
        feature_dir: Folder of cached USS features, see :func:`mmseg_dhr.apis.write_uss_features`.
        settings (DebiasSettings): How to find and remove.

    Raises:
        UserError: If the data set or its masks have no background, or files are missing or do not
            fit.
    """
    return _learn(_open_inputs(dataset, mask_dir, feature_dir, settings), settings)


def write_debiased_masks(dataset: Any, mask_dir: str | Path, feature_dir: str | Path,
                         out_dir: str | Path, settings: DebiasSettings,
                         overwrite: bool = False) -> Path:
    """Write debiased masks as palette PNG for every image; goes on where it stopped.

    Args:
        dataset, mask_dir, feature_dir, settings: See :func:`learn_debiaser`.
        out_dir: Output folder.
        overwrite (bool): Replace files of other settings. Defaults to False.

    Returns:
        Path: The folder.

    Raises:
        UserError: See :func:`learn_debiaser`; if the masks lie in ``out_dir``.
    """
    spare_inputs([out_dir], [mask_dir])
    inputs = _open_inputs(dataset, mask_dir, feature_dir, settings)
    origin = dict(kind='debiased', masks=inputs.masks.digest, features=origin_of(inputs.features),
                  tags=state_fingerprint({photo.img_id: photo.tags for photo in inputs.photos}))
    shard = open_shard('debiased masks', out_dir, inputs.photos, {**origin, **settings._asdict()},
                       '.png', overwrite)
    if shard.photos:
        debiaser = _learn(inputs, settings)
        with in_background() as submit:
            for photo, in shard.batches():
                submit(write_mask, shard.output.path(photo.img_id), debiaser(photo),
                       dataset.metainfo['palette'])
    shard.finish()
    return Path(out_dir)


def score_debiased(debiaser: Debiaser, truth_dir: str | Path, every: int = 1) -> Scores:
    """Score the debiased masks of every so many-th image against the true masks ``{id}.png``.

    Raises:
        UserError: If a true mask is missing.
    """
    classes = debiaser.inputs.masks.classes
    scores = MaskScores(classes.number, classes.background)
    for photo in debiaser.inputs.photos[::every]:
        scores.update(debiaser(photo), read_truth(truth_dir, photo), photo.tags)
    return scores.compute()


def _open_inputs(dataset: Any, mask_dir: str | Path, feature_dir: str | Path,
                 settings: DebiasSettings) -> Inputs:
    if dataset.background_index is None:
        raise UserError('Expected a data set with a background class, but this one has none: '
                        'biased objects are told from the target by the background of others.')
    photos, features = list_photos(dataset), Path(feature_dir)
    missing = [photo.img_id for photo in photos
               if not (features / f'{photo.img_id}.safetensors').is_file()]
    if missing:
        raise UserError(f'{features}: {len(missing)} of {len(photos)} images have no USS features, '
                        f'among them {missing[0]}. Make them with '
                        '`python tools/extract_uss_features.py`.')
    masks = open_seeds(mask_dir, photos, len(dataset.metainfo['classes']),
                       dataset.background_index, 'masks')
    return Inputs(photos, masks, features, mean_feature(features) if settings.center else None)


def _learn(inputs: Inputs, settings: DebiasSettings) -> Debiaser:
    """Every rank looks at all images: that takes no longer than to wait for the others."""
    candidates: dict[int, list[Tensor]] = defaultdict(list)
    background, count = torch.zeros(()), 0
    for photo in tqdm(inputs.photos, desc='USS clusters', disable=get_dist_info()[0] != 0,
                      mininterval=1.0):
        clusters, own = _candidates(inputs, photo, settings.clusters)
        for label, found in clusters.items():
            candidates[label].append(found)
        if own is not None:
            background, count = background + own, count + 1
    if not count:
        raise UserError(f'{inputs.masks.folder}: expected masks with background pixels (label '
                        f'{inputs.masks.classes.background}), but found none.')
    centroids = {label: select_debiased(torch.cat(parts), background / count, settings.keep)
                 for label, parts in candidates.items()}
    return Debiaser(inputs, {label: some for label, some in centroids.items() if len(some)},
                    settings)


def _candidates(inputs: Inputs, photo: Photo,
                count: int) -> tuple[dict[int, Tensor], Tensor | None]:
    """Cluster centroids (k, D) of each tag, and the mean feature (D,) of the background, if any."""
    features = F.normalize(inputs.feature_map(photo), dim=0)[None]
    classes = torch.tensor([[inputs.masks.classes.background, *photo.tags]])
    weights = class_area_fractions(inputs.mask(photo)[None], classes,
                                   torch.ones_like(classes, dtype=torch.bool), features.shape[-2:])
    found = class_clusters(features, weights[:, 1:], count)
    clusters = {tag: centroids[used] for tag, centroids, used
                in zip(photo.tags, found.centroids[0], found.used[0], strict=True)}
    mean, present = class_average_pool(features, weights[:, :1])
    return clusters, mean[0, 0] if present[0, 0] else None
