"""M_base from CAMs that walk along learnt affinities (PSA, IRNet)."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from torch import Tensor

from ..formats import origin_of, state_fingerprint, write_cam, write_mask
from ..ops import add_background, agreed_labels
from ..utils import UserError
from ..utils.checks import spare_inputs
from .base_masks import BaseMaskSettings, mask_from_cam
from .boundaries import read_boundary
from .common import Photo, Shard, in_background, list_photos, open_shard, read_rgb
from .seed_folder import LabelledMaps, SeedFolder, open_seeds

__all__ = ['AgreementSettings', 'WalkSettings', 'agreed_mask', 'mask_from_walk', 'settings_from',
           'walked_scores', 'write_affinity_labels', 'write_affinity_masks']


class AgreementSettings(NamedTuple):
    """Two backgrounds whose masks have to agree for a label to be trusted.

    Attributes:
        background_powers: Exponents of ``(1 - max_c)``, PSA's (4, 32); None to use the constants.
        background_constants: Background scores, IRNet's (.30, .05); None to use the powers.
        crf: Settings of :class:`DenseCRFParams`; None = no CRF.
        background_index: Label id of the background; None if the data set has none.
    """
    background_powers: tuple[float, float] | None = (4.0, 32.0)
    background_constants: tuple[float, float] | None = None
    crf: dict[str, Any] | None = {}
    background_index: int | None = 0

    def masks(self) -> list[BaseMaskSettings]:
        """The two masks' settings.

        Raises:
            ValueError: Unless exactly one pair of backgrounds is given.
        """
        if (self.background_powers is None) == (self.background_constants is None):
            raise ValueError('Expected exactly one of `background_powers` and '
                             '`background_constants`.')
        powers = self.background_powers or (None, None)
        constants = self.background_constants or (None, None)
        return [BaseMaskSettings(constant, power, self.crf, self.background_index)
                for constant, power in zip(constants, powers, strict=True)]


class WalkSettings(NamedTuple):
    """How CAMs walk, and how what comes out becomes a mask.

    Attributes:
        beta: Exponent of the affinities; PSA 8, IRNet 10.
        num_steps: Steps of the walk.
        radius: Neighbours are nearer than this, in cells of the network's grid.
        background_power: The background ``(1 - max_c)^power`` walks with the CAMs (PSA: 16); None
            to use the constant.
        background_constant: Background score beside the walked CAMs, whose maximum over the image
            is 1 (IRNet: .25); None to use the power.
        cam_power: Exponent of the CAMs before the walk; 1.5 for CAMs of AdvCAM.
        crf: Settings of :class:`DenseCRFParams` for the result; None = no CRF.
        background_index: Label id of the background; None if the data set has none.
        boundary_threshold: What is a boundary, where boundary maps are given (RETAB's τ).
    """
    beta: float = 8.0
    num_steps: int = 256
    radius: int = 5
    background_power: float | None = 16.0
    background_constant: float | None = None
    cam_power: float = 1.0
    crf: dict[str, Any] | None = None
    background_index: int | None = 0
    boundary_threshold: float = 0.5


Settings = TypeVar('Settings', AgreementSettings, WalkSettings)


def agreed_mask(image: np.ndarray, cam: np.ndarray, tags: Sequence[int],
                settings: AgreementSettings) -> np.ndarray:
    """Label ids where the masks of two backgrounds agree, 255 elsewhere: what affinities learn.

    Args:
        image, cam, tags: See :func:`mask_from_cam`.
        settings (AgreementSettings): The two backgrounds.

    Returns:
        np.ndarray: uint8 (H, W).
    """
    first, second = (torch.from_numpy(mask_from_cam(image, cam, tags, mask))
                     for mask in settings.masks())
    return agreed_labels(first, second).numpy()


def write_affinity_labels(dataset: Any, out_dir: str | Path, cam_dir: str | Path,
                          settings: AgreementSettings, flavour: str = 'auto', threads: int = 1,
                          overwrite: bool = False) -> Path:
    """Write the label maps that an :class:`AffinityNetwork` trains on, as palette PNG.

    Args:
        dataset (TaggedDataset): The images and their tags.
        out_dir: Output folder.
        cam_dir: Folder of CAMs, ours or another program's, see
            :func:`mmseg_dhr.apis.seed_folder.open_seeds`.
        settings (AgreementSettings): The two backgrounds.
        flavour (str): Of the CAMs. Defaults to 'auto', by what the files hold.
        threads (int): For the CRF, beside this one. Defaults to 1.
        overwrite (bool): Replace files of other settings. Defaults to False.

    Returns:
        Path: The folder.

    Raises:
        UserError: If the CAMs do not fit the data set.
    """
    settings = settings._replace(background_index=dataset.background_index)
    settings.masks()
    seeds = _open_cams(dataset, cam_dir, flavour, threads)
    shard = open_shard('affinity labels', out_dir, list_photos(dataset),
                       dict(kind='affinity labels', flavour=seeds.name, seeds=seeds.digest,
                            **settings._asdict()), '.png', overwrite)

    def finish(photo: Photo, cams: LabelledMaps) -> None:
        mask = agreed_mask(read_rgb(photo.path), cams.maps, cams.labels, settings)
        write_mask(shard.output.path(photo.img_id), mask, dataset.metainfo['palette'])

    with in_background(threads) as submit:
        for photo, in shard.batches():
            submit(finish, photo, seeds.read(photo))
    shard.finish()
    return Path(out_dir)


def _open_cams(dataset: Any, folder: str | Path, flavour: str, threads: int) -> SeedFolder:
    seeds = open_seeds(folder, list_photos(dataset), len(dataset.metainfo['classes']),
                       dataset.background_index, flavour, threads)
    if seeds.are_masks:
        raise UserError(f'{folder}: expected activation maps, but found masks.')
    return seeds


@torch.no_grad()
def walked_scores(model: Any, images: np.ndarray, cams: Sequence[np.ndarray],
                  settings: WalkSettings,
                  boundaries: Sequence[np.ndarray] | None = None) -> list[Tensor]:
    """Scores of images of one size after the walk.

    Args:
        model (AffinityNetwork): In eval mode.
        images (np.ndarray): uint8 RGB (B, H, W, 3).
        cams (Sequence[np.ndarray]): For each image (n, h', w') in [0, 1].
        settings (WalkSettings): With ``background_power`` the background is the first channel.
        boundaries (Sequence[np.ndarray], optional): For each image uint8 (H, W), probability of a
            boundary times 255; the walk has two stages then (RETAB).

    Returns:
        list[Tensor]: For each image float32 on the CPU, (n, h, w) or (n + 1, h, w) on the network's
        grid, in [0, 1].

    Raises:
        ValueError: Unless exactly one of the settings' backgrounds is given.
    """
    if (settings.background_power is None) == (settings.background_constant is None):
        raise ValueError('Expected exactly one of `background_power` and `background_constant`.')
    device = next(model.parameters()).device
    starts = [_start(torch.from_numpy(cam.astype(np.float32)), settings) for cam in cams]
    if not any(map(len, starts)):  # nothing walks
        return starts
    # Image by image: their CAMs may have different grids, as another program wrote them.
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous()
    size, most = images.shape[1:3], max(map(len, starts))
    scores = torch.stack([_on_image(start, size, most) for start in starts]).to(device)
    boundary = None
    if boundaries is not None:
        boundary = torch.from_numpy(np.stack(boundaries)).to(device).float() / 255
    walked = model.walk(model.rgb_to_inputs(pixels), scores, settings.beta, settings.num_steps,
                        settings.radius, boundary, settings.boundary_threshold).cpu()
    return [_finished(maps[:len(start)], settings)
            for maps, start in zip(walked, starts, strict=True)]


def _start(cam: Tensor, settings: WalkSettings) -> Tensor:
    """What walks: (n, h', w'), with the background first where that walks along."""
    cam = cam**settings.cam_power
    if settings.background_power is None or settings.background_index is None:
        return cam
    return add_background(cam[None], settings.background_power)[0]


def _on_image(scores: Tensor, size: Sequence[int], channels: int) -> Tensor:
    """(n, h', w') -> (channels, H, W), filled up with zeros."""
    full = torch.zeros((channels, *size))
    if len(scores):
        full[:len(scores)] = F.interpolate(scores[None], size=tuple(size), mode='bilinear',
                                           align_corners=False)[0]
    return full


def _finished(walked: Tensor, settings: WalkSettings) -> Tensor:
    """Scale so that the constant means a share of the image's maximum; rounding may leave [0, 1]"""
    if settings.background_constant is not None and walked.numel():
        walked = walked / walked.max().clamp_min(1e-5)
    return walked.clamp(0, 1)


def mask_from_walk(image: np.ndarray, scores: Tensor, tags: Sequence[int],
                   settings: WalkSettings) -> np.ndarray:
    """One mask of label ids.

    Args:
        image (np.ndarray): uint8 RGB (H, W, 3).
        scores (Tensor): Of :func:`walked_scores`.
        tags (Sequence[int]): Foreground label ids.
        settings (WalkSettings): Those that the scores were made with.

    Returns:
        np.ndarray: uint8 (H, W).
    """
    rule = BaseMaskSettings(settings.background_constant, None, settings.crf,
                            settings.background_index)
    maps, background = scores.numpy(), None
    if len(maps) > len(tags):  # it walked along
        background, maps = maps[0], maps[1:]
    return mask_from_cam(image, maps, tags, rule, background)


def write_affinity_masks(model: Any, dataset: Any, out_dir: str | Path, cam_dir: str | Path,
                         settings: WalkSettings, flavour: str = 'auto', maps: bool = False,
                         threads: int = 1, batch_size: int = 1, overwrite: bool = False,
                         boundary_dir: str | Path | None = None) -> Path:
    """Write M_base as palette PNG for every image, from CAMs that walk; goes on where it stopped.

    Args:
        model (AffinityNetwork): The trained network.
        dataset (TaggedDataset): The images and their tags.
        out_dir: Output folder.
        cam_dir, flavour: See :func:`write_affinity_labels`.
        settings (WalkSettings): Walk, background and CRF.
        maps (bool): Write the foreground's walked maps as npz, as :func:`write_cams` does, instead
            of masks. Defaults to False.
        threads (int): For the CRF, beside this one. Defaults to 1.
        batch_size (int): Images of one size that walk together. Defaults to 1.
        overwrite (bool): Replace files of other settings. Defaults to False.
        boundary_dir (optional): Folder of :func:`write_boundaries`, for RETAB's walk in two stages.

    Returns:
        Path: The folder.

    Raises:
        UserError: If the CAMs do not fit the data set, a boundary map is missing, or either lies
            in ``out_dir``.
    """
    settings = settings._replace(background_index=dataset.background_index)
    spare_inputs([out_dir], [cam_dir] if boundary_dir is None else [cam_dir, boundary_dir])
    seeds = _open_cams(dataset, cam_dir, flavour, threads)
    made_with = dict(kind='walked cam' if maps else 'affinity', flavour=seeds.name,
                     seeds=seeds.digest, weights=state_fingerprint(model), **settings._asdict())
    if boundary_dir is not None:
        made_with['boundaries'] = origin_of(boundary_dir)
    title, suffix = ('walked CAMs', '.npz') if maps else ('affinity masks', '.png')
    shard = open_shard(title, out_dir, list_photos(dataset), made_with, suffix, overwrite)

    def finish(photo: Photo, image: np.ndarray, labels: tuple[int, ...], scores: Tensor) -> None:
        out = shard.output.path(photo.img_id)
        if maps:
            write_cam(out, np.asarray(labels, np.int64), scores[len(scores) - len(labels):].numpy())
        else:
            write_mask(out, mask_from_walk(image, scores, labels, settings),
                       dataset.metainfo['palette'])

    model.eval()
    with in_background(threads) as submit:
        for item in _walks(shard, model, seeds, settings, batch_size, boundary_dir):
            submit(finish, *item)
    shard.finish()
    return Path(out_dir)


def _walks(shard: Shard, model: Any, seeds: SeedFolder, settings: WalkSettings, batch_size: int,
           boundary_dir: str | Path | None
           ) -> Iterator[tuple[Photo, np.ndarray, tuple[int, ...], Tensor]]:
    """Each image with its pixels, the labels that have a map and their walked scores."""
    for photos, images in shard.images(batch_size):
        cams = [seeds.read(photo) for photo in photos]
        boundaries = boundary_dir and [
            read_boundary(boundary_dir, photo, images.shape[1:3]) for photo in photos]
        walked = walked_scores(model, images, [cam.maps for cam in cams], settings,
                               boundaries or None)
        for photo, image, cam, scores in zip(photos, images, cams, walked, strict=True):
            yield photo, image, cam.labels, scores


def settings_from(config: Mapping[str, Any], key: str, kind: type[Settings]) -> Settings:
    """The settings under a key of a config.

    Raises:
        UserError: If there are none, or the key holds other ones.
    """
    known = ', '.join(kind._fields)
    if key not in config:
        raise UserError(f'Expected the config of an affinity network, with `{key} = dict(...)` of '
                        f'{known}, but found none. See configs/seeds/psa_vocmini.py.')
    given = {name: value.to_dict() if isinstance(value, ConfigDict) else value
             for name, value in config[key].items()}
    unknown = [name for name in given if name not in kind._fields]
    if unknown:
        raise UserError(f'`{key}` of the config: expected settings among {known}, but found '
                        f'{", ".join(unknown)}.')
    return kind(**given)
