"""Helpers shared by the registered components and the command line tools."""
from .checks import check_checkpoint, check_datasets, leaf_datasets, naming_broken_files
from .config import load_config
from .errors import UserError
from .friendly import friendly_errors

__all__ = ['UserError', 'check_checkpoint', 'check_datasets', 'friendly_errors', 'leaf_datasets',
           'load_config', 'naming_broken_files']
