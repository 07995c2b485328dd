"""Command line arguments and the launch, as all tools have them."""
from __future__ import annotations

import argparse
import atexit
import gc
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction

from .config import DATA_ROOT_VARIABLE, load_config
from .friendly import DEBUG_ENV, friendly_errors

__all__ = ['add_common_arguments', 'add_config_arguments', 'add_launcher_arguments', 'config_from',
           'friendly_errors', 'positive_int', 'prepare_cpu_launch']


def positive_int(text: str) -> int:
    """Type of an argument that is 1 or more.

    Raises:
        argparse.ArgumentTypeError: If it is not.
    """
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f'expected a whole number of at least 1, but got {text}')
    return value


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--work-dir``, ``--cfg-options``, ``--data-root`` and ``--debug``."""
    parser.add_argument('--work-dir', metavar='DIR',
                        help='folder of logs and checkpoints (default: work_dirs/CONFIG NAME)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction,
                        help='override settings of the config, key=value; a list is key="[a,b]" or '
                        'key=a,b, without blanks')
    parser.add_argument('--data-root', metavar='DIR',
                        help=f'folder of the data set; the same as setting {DATA_ROOT_VARIABLE}')
    parser.add_argument('--debug', action='store_true',
                        help=f'show the traceback of every error; the same as {DEBUG_ENV}=1')


def add_common_arguments(parser: argparse.ArgumentParser, batch_size: int | None = None,
                         threads: bool = False) -> None:
    """Add what commands that fill a folder have: those of the config and ``--overwrite``.

    Args:
        parser (argparse.ArgumentParser): Whose.
        batch_size (int, optional): Default of ``--batch-size``. None: there is none.
        threads (bool): Whether there is ``--threads``.
    """
    if batch_size is not None:
        parser.add_argument('--batch-size', type=positive_int, default=batch_size,
                            help='images of one size that are worked on together '
                            '(default: %(default)s)')
    if threads:
        parser.add_argument('--threads', type=positive_int, default=1,
                            help='CRF threads beside this one (default: %(default)s)')
    add_config_arguments(parser)
    parser.add_argument('--overwrite', action='store_true',
                        help='replace the files of the output folder that other settings made')


def add_launcher_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--launcher`` and ``--local_rank``, as the tools of mmseg have them."""
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='job launcher')
    # torch.distributed.launch passes `--local-rank` since PyTorch 2.0, `--local_rank` before.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def config_from(args: argparse.Namespace) -> Config:
    """The config of ``args.config`` with the arguments of :func:`add_config_arguments`.

    Raises:
        UserError: If the config is missing or does not use ``--data-root``.
    """
    return load_config(args.config, args.work_dir, args.data_root, args.cfg_options)


def prepare_cpu_launch(cfg: Config) -> None:
    """Let ``--launcher pytorch`` run without a GPU: gloo, no device ids, plain batch norm.

    mmengine assumes CUDA wherever there is a launcher. Nothing is done if there is CUDA, or no
    launcher.
    """
    import torch

    if cfg.get('launcher') != 'pytorch' or torch.cuda.is_available():
        return
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
        atexit.register(_leave_process_group)
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel', broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False))
    cfg.model_wrapper_cfg = {**wrapper, 'device_ids': None}
    # A synchronised batch norm refuses CPU tensors.
    _replace_type(cfg.model, 'SyncBN', 'BN')


def _leave_process_group() -> None:
    # Threads of gloo that still run when the interpreter is torn down can abort the process. They
    # end with the group, which a model in a reference cycle would keep.
    import torch

    gc.collect()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _replace_type(value: Any, old: str, new: str) -> None:
    if isinstance(value, dict | ConfigDict):
        if value.get('type') == old:
            value['type'] = new
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            _replace_type(part, old, new)
