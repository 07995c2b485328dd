"""Export a trained model to plain MMSegmentation: config and checkpoint that run without mmseg_dhr.

The checkpoint holds the weights of the wrapped segmentor, class names and palette; the config holds
the segmentor, its data preprocessor and the test pipeline.
"""
from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import Registry, init_default_scope
from mmseg.registry import DATA_SAMPLERS, DATASETS, METRICS, MODELS, TRANSFORMS

from mmseg_dhr.formats import atomic_path
from mmseg_dhr.utils import UserError, leaf_datasets
from mmseg_dhr.utils.checks import check_state, read_checkpoint, spare_inputs
from mmseg_dhr.utils.cli import add_config_arguments, config_from, friendly_errors

_WRAPPER = 'DualEncoderSegmentor'
_PREFIX = 'segmentor.'
_PACKAGE = 'mmseg_dhr'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='train config file path')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('out_dir', help='folder for CONFIG NAME.py and CONFIG NAME.pth')
    add_config_arguments(parser)
    return parser.parse_args()


def is_ours(registry: Registry, name: str) -> bool:
    """Whether a registered type belongs to this package."""
    found = registry.get(name)
    return found is not None and found.__module__.split('.')[0] == _PACKAGE


def plain_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """Config of the wrapped segmentor, without what only initialises or trains.

    Raises:
        UserError: If a part of it exists in this package alone.
    """
    model = _as_dict(model)
    if model['type'] == _WRAPPER:
        override = model.get('data_preprocessor')
        model = model['segmentor']
        if override is not None:
            model['data_preprocessor'] = {**(model.get('data_preprocessor') or {}), **override}
    _strip(model)
    return model


def _as_dict(config: Any) -> Any:
    return ConfigDict(config).to_dict() if isinstance(config, Mapping) else config


def _strip(node: Any) -> None:
    if isinstance(node, list | tuple):
        for part in node:
            _strip(part)
    if not isinstance(node, dict):
        return
    node.pop('init_cfg', None)
    if 'pretrained' in node or node.get('type') == 'TIMMBackbone':
        node['pretrained'] = False if node.get('type') == 'TIMMBackbone' else None
    for part in node.values():
        _strip(part)
    name = node.get('type')
    if isinstance(name, str) and is_ours(MODELS, name):
        raise UserError(f'Cannot export {name}: plain MMSegmentation has no such module, it is '
                        f'part of {_PACKAGE}.')


def plain_pipeline(pipeline: Sequence[Any]) -> list[Any]:
    """The stock transforms of a pipeline, in order; nested lists (TestTimeAug) are kept."""
    plain: list[Any] = []
    for transform in pipeline:
        if not isinstance(transform, Mapping):
            plain.append(plain_pipeline(transform))
            continue
        transform = _as_dict(transform)
        name = transform['type']
        if name == 'PackTaggedInputs':
            plain.append(dict(type='PackSegInputs'))
        elif name == 'TrackGeometry':
            plain += plain_pipeline(transform['transforms'])
        elif not is_ours(TRANSFORMS, name):
            if 'transforms' in transform:
                transform['transforms'] = plain_pipeline(transform['transforms'])
            plain.append(transform)
    return plain


def plain_dataset(dataset: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Config of a data set in stock types.

    Args:
        dataset (Mapping): Config of any data set.
        meta (Mapping): ``classes`` and ``palette``, for a type that only this package knows.
    """
    dataset = _as_dict(dataset)
    if isinstance(dataset.get('datasets'), list):
        return {**dataset, 'datasets': [plain_dataset(d, meta) for d in dataset['datasets']]}
    if isinstance(dataset.get('dataset'), Mapping):
        inner = plain_dataset(dataset['dataset'], meta)
        return inner if is_ours(DATASETS, dataset['type']) else {**dataset, 'dataset': inner}
    pipeline = plain_pipeline(dataset.get('pipeline', ()))
    if not is_ours(DATASETS, dataset['type']):
        return {**dataset, 'pipeline': pipeline}
    built = DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True})
    return dict(type='BaseSegDataset', metainfo=dict(meta), ann_file=built.ann_file,
                data_prefix=dict(built.data_prefix), img_suffix=built.img_suffix,
                seg_map_suffix=built.seg_map_suffix, reduce_zero_label=built.reduce_zero_label,
                pipeline=pipeline)


def plain_config(cfg: Config, meta: Mapping[str, Any]) -> Config:
    """A config for test and inference that names stock types only.

    Args:
        cfg (Config): Config of the training.
        meta (Mapping): ``classes`` and ``palette``.

    Raises:
        UserError: If the model cannot be expressed in stock types, or there is no test data set.
    """
    if not cfg.get('test_dataloader'):
        raise UserError('The config has no `test_dataloader`: its pipeline is what the exported '
                        'model needs.')
    model = plain_model(cfg.model)
    loader = _as_dict(cfg.test_dataloader)
    _, leaf = next(iter(leaf_datasets(loader['dataset'], 'test_dataloader.dataset')))
    loader['dataset'] = plain_dataset(loader['dataset'], meta)
    if is_ours(DATA_SAMPLERS, loader.get('sampler', {}).get('type', 'DefaultSampler')):
        loader['sampler'] = dict(type='DefaultSampler', shuffle=False)
    evaluators = cfg.get('test_evaluator') or []
    evaluators = [_as_dict(e) for e in (
        [evaluators] if isinstance(evaluators, Mapping) else evaluators)]
    plain = dict(
        default_scope='mmseg',
        model=model,
        data_preprocessor=model.get('data_preprocessor'),
        test_pipeline=plain_pipeline(leaf['pipeline']),
        test_dataloader=loader,
        test_evaluator=[e for e in evaluators if not is_ours(METRICS, e['type'])]
        or evaluators and dict(type='IoUMetric', iou_metrics=['mIoU']),
        test_cfg=dict(type='TestLoop'),
        default_hooks=dict(visualization=dict(type='SegVisualizationHook')),
        visualizer=dict(type='SegLocalVisualizer', name='visualizer',
                        vis_backends=[dict(type='LocalVisBackend')]))
    if 'tta_pipeline' in cfg:
        plain.update(tta_pipeline=plain_pipeline(cfg.tta_pipeline),
                     tta_model=dict(type='SegTTAModel'))
    return Config(plain)


def dataset_meta(cfg: Config, checkpoint_meta: Mapping[str, Any]) -> dict[str, Any]:
    """Class names and palette of the checkpoint, or else of the test data set."""
    meta = checkpoint_meta.get('dataset_meta') or {}
    if 'classes' not in meta or 'palette' not in meta:
        _, leaf = next(iter(leaf_datasets(cfg.test_dataloader.dataset, 'test_dataloader.dataset')))
        meta = DATASETS.build({**leaf, 'pipeline': [], 'lazy_init': True}).metainfo
    return dict(classes=list(meta['classes']),
                palette=[[int(value) for value in colour] for colour in meta['palette']])


def export(cfg: Config, checkpoint_path: str, out_dir: str, name: str) -> tuple[Path, Path]:
    """Write ``name.py`` and ``name.pth`` into a folder.

    Args:
        cfg (Config): Config of the training.
        checkpoint_path (str): Its checkpoint.
        out_dir (str): Folder to write to.
        name (str): Name of both files.

    Returns:
        tuple[Path, Path]: Config and checkpoint.

    Raises:
        UserError: If the checkpoint does not fit the config, something has no stock type, or the
            files would replace those of the training.
    """
    init_default_scope('mmseg')
    config_file, weights_file = (Path(out_dir) / f'{name}{suffix}' for suffix in ('.py', '.pth'))
    # A work directory holds the training's own config under this name.
    spare_inputs([config_file, weights_file, out_dir],
                 [cfg.filename, checkpoint_path, Path(checkpoint_path).parent, cfg.work_dir])
    state, meta = read_checkpoint(checkpoint_path)
    meta = dataset_meta(cfg, meta)
    plain = plain_config(cfg, meta)
    if cfg.model.type == _WRAPPER:
        state = {key.removeprefix(_PREFIX): value for key, value in state.items()
                 if key.startswith(_PREFIX)}
    model = MODELS.build(plain.model)
    check_state(model, state, checkpoint_path)
    model.load_state_dict(state, strict=True)  # the written pair is complete, nothing is left over
    with atomic_path(weights_file) as temporary:
        torch.save(dict(state_dict=state, meta=dict(dataset_meta=meta)), temporary)
    with atomic_path(config_file) as temporary:
        temporary.write_text(plain.pretty_text, encoding='utf-8')
    return config_file, weights_file


def main() -> None:
    """Export and say how to use the result."""
    args = parse_args()
    with friendly_errors(args.debug):
        config, weights = export(config_from(args), args.checkpoint, args.out_dir,
                                 Path(args.config).stem)
    print(f"""Wrote {config} and {weights}. In any environment with MMSegmentation:

    from mmseg.apis import inference_model, init_model
    model = init_model('{config}', '{weights}', device='cpu')
    result = inference_model(model, 'image.jpg')""")


if __name__ == '__main__':
    main()
