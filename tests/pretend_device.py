"""A device that is none: its tensors compute on the CPU and say that they are elsewhere.

An operation on tensors of two devices is refused, as a GPU would, and whatever makes the host wait
for a GPU is noted: a value that is read, a copy to the CPU, a shape that depends on values.
"""
from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

# Known to every PyTorch, without a driver.
DEVICE = torch.device('meta')
CPU = torch.device('cpu')
_aten = torch.ops.aten
_READS = {_aten._local_scalar_dense.default, _aten.equal.default, _aten.nonzero.default,
          _aten.masked_select.default, _aten._unique2.default, _aten.unique_dim.default,
          _aten.unique_consecutive.default}
# As on a GPU, positions may come from the CPU.
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}
_COPIES = {_aten.copy_.default, _aten._to_copy.default}


class PretendTensor(Tensor):
    """A tensor of the pretended device; ``inner`` holds the values."""

    inner: Tensor
    # What a function returns is of its own type, and not of this one.
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendTensor:
        self = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=DEVICE, requires_grad=inner.requires_grad)
        self.inner = inner.detach()
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f'{func} outside of `with PretendDevice()`.')

    def __repr__(self) -> str:
        return f'PretendTensor({self.inner!r})'


class PretendDevice(TorchDispatchMode):
    """Context in which tensors can be put on the device and be computed with there.

    Attributes:
        waits: For each time that the host had to wait, the operation and the line of the package.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> PretendDevice:
        autocast = torch.autocast
        self._stack.enter_context(mock.patch.object(
            torch, 'autocast', lambda kind, **options: (contextlib.nullcontext()
                                                        if kind == DEVICE.type
                                                        else autocast(kind, **options))))
        self._stack.enter_context(_FromLists())
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    @staticmethod
    def put(tensor: Tensor) -> Tensor:
        """The tensor on the device."""
        return tensor if isinstance(tensor, PretendTensor) else PretendTensor(tensor)

    def put_module(self, module: nn.Module) -> None:
        """Move a module's parameters and buffers."""
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        module._apply(self.put)
        torch.__future__.set_overwrite_module_params_on_conversion(before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        here = any(isinstance(tensor, PretendTensor) for tensor in tensors)
        target = torch.device(kwargs.get('device') or (DEVICE if here else CPU))
        if kwargs.get('device') is not None:
            kwargs['device'] = CPU
        if here:
            self._check(func, args, tensors, target)
        result = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        name = func._schema.name
        if name.endswith('_') and not name.endswith('__'):  # in place
            return args[0]
        return result if target == CPU else tree_map(_outer, result)

    def _check(self, func: Any, args: Any, tensors: list[Tensor], target: torch.device) -> None:
        down = (func is _aten.copy_.default and isinstance(args[1], PretendTensor)
                and not isinstance(args[0], PretendTensor))
        by_mask = func in _INDEXING and any(
            index is not None and index.dtype == torch.bool for index in args[1])
        if func in _READS or target == CPU or down or by_mask:
            lines = [f'{frame.filename.split("mmseg_dhr/")[-1]}:{frame.lineno}'
                     for frame in traceback.extract_stack() if '/mmseg_dhr/' in frame.filename]
            self.waits.append(f'{func} at {lines[-1] if lines else "?"}')
        if func not in _INDEXING | _COPIES:
            for tensor in tensors:
                if tensor.dim() and not isinstance(tensor, PretendTensor):
                    raise RuntimeError(f'{func}: expected all tensors on one device, but one of '
                                       f'shape {tuple(tensor.shape)} is on the CPU.')


class _FromLists(TorchFunctionMode):
    """PyTorch gives tensors that it makes of lists no values on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            device = torch.device(kwargs.pop('device', None) or CPU)
            made = func(*args, **kwargs)
            return made if device == CPU else PretendDevice.put(made)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1]
            index = tuple(map(_positions, index)) if isinstance(index, tuple) else _positions(index)
            args = (args[0], index, *args[2:])
        if func is Tensor.tolist and isinstance(args[0], PretendTensor):
            return args[0].cpu().tolist()
        return func(*args, **kwargs)


def _positions(index: Any) -> Any:
    return torch.tensor(index) if isinstance(index, list) else index


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, PretendTensor) else value


def _outer(value: Any) -> Any:
    return PretendTensor(value) if isinstance(value, Tensor) else value


def values(tree: Any) -> Iterator[Tensor]:
    """The tensors of a nested result, on the CPU, without a note of it."""
    return (_inner(leaf) for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor))
