"""Neighbouring float32 as one vector of the processor: numba does not make them of scalars."""
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

__all__ = ['add_row', 'copy_row', 'gather_rows']

_INDEX = ir.IntType(32)


def _broadcast(builder: Any, value: Any, vector: ir.VectorType) -> Any:
    """A scalar in every lane."""
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value,
                                   ir.Constant(_INDEX, 0))
    zeros = ir.Constant(ir.VectorType(_INDEX, vector.count), None)
    return builder.shuffle_vector(first, first, zeros)


def _add_product(builder: Any, total: Any, left: Any, right: Any) -> Any:
    fused = ('contract', )
    return builder.fadd(total, builder.fmul(left, right, flags=fused), flags=fused)


def _row(context: Any, builder: Any, kinds: Any, values: Any, vector: ir.VectorType) -> Any:
    """Pointer to ``array[i, column]`` of (array, i, column), C-contiguous, as one to a vector."""
    array = context.make_array(kinds[0])(context, builder, values[0])
    i, column = (context.cast(builder, value, kind, types.intp)
                 for value, kind in zip(values[1:], kinds[1:], strict=True))
    width = builder.extract_value(array.shape, 1)
    first = builder.add(builder.mul(i, width), column)
    return builder.bitcast(builder.gep(array.data, [first]), vector.as_pointer())


def _two_rows(context: Any, builder: Any, kinds: Any, values: Any, places: tuple[int, ...],
              vector: ir.VectorType) -> tuple[Any, Any]:
    """Pointers to a row of a target and of a source: array, row, array, row among ``values``."""
    zero = context.get_constant(types.intp, 0)
    to, of = (_row(context, builder, (kinds[a], kinds[b], types.intp), (values[a], values[b], zero),
                   vector) for a, b in (places[:2], places[2:]))
    return to, of


@intrinsic
def add_row(typing: Any, target: Any, i: Any, factor: Any, source: Any, j: Any,
            lanes: Any) -> Any:
    """``target[i] += factor * source[j]`` for rows of n = len(lanes).

    The arrays are C-contiguous float32 (M, n), ``factor`` is float32, ``lanes`` a tuple. Nothing
    checks the bounds.
    """
    vector = ir.VectorType(ir.FloatType(), len(lanes))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, of = _two_rows(context, builder, signature.args, args, (0, 1, 3, 4), vector)
        total = _add_product(builder, builder.load(to, align=4),
                             _broadcast(builder, args[2], vector), builder.load(of, align=4))
        builder.store(total, to, align=4)
        return context.get_dummy_value()

    return types.void(target, i, types.float32, source, j, lanes), codegen


@intrinsic
def copy_row(typing: Any, target: Any, i: Any, source: Any, j: Any, lanes: Any) -> Any:
    """``target[i] = source[j]``; see :func:`add_row`."""
    vector = ir.VectorType(ir.FloatType(), len(lanes))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, of = _two_rows(context, builder, signature.args, args, (0, 1, 2, 3), vector)
        builder.store(builder.load(of, align=4), to, align=4)
        return context.get_dummy_value()

    return types.void(target, i, source, j, lanes), codegen


@intrinsic
def gather_rows(typing: Any, target: Any, i: Any, count: Any, factors: Any, rows: Any,
                source: Any, lanes: Any) -> Any:
    """``target[i] = sum over r of factors[r, i] * source[rows[r, i]]``.

    ``count`` is a tuple of as many elements as ``factors`` and ``rows`` have rows; see
    :func:`add_row` for the rest.
    """
    vector, scalar = (ir.VectorType(ir.FloatType(), n) for n in (len(lanes), 1))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds, intp = signature.args, types.intp
        zero = context.get_constant(intp, 0)
        total = ir.Constant(vector, [0.0] * len(lanes))
        for r in range(len(count)):
            place = (context.get_constant(intp, r), args[1])
            factor = _row(context, builder, (kinds[3], intp, kinds[1]), (args[3], *place), scalar)
            row = _row(context, builder, (kinds[4], intp, kinds[1]), (args[4], *place),
                       ir.VectorType(_INDEX, 1))
            factor, row = (builder.extract_element(builder.load(pointer, align=4),
                                                   ir.Constant(_INDEX, 0))
                           for pointer in (factor, row))
            of = _row(context, builder, (kinds[5], types.int32, intp), (args[5], row, zero), vector)
            total = _add_product(builder, total, _broadcast(builder, factor, vector),
                                 builder.load(of, align=4))
        to = _row(context, builder, (*kinds[:2], intp), (*args[:2], zero), vector)
        builder.store(total, to, align=4)
        return context.get_dummy_value()

    return types.void(target, i, count, factors, rows, source, lanes), codegen
