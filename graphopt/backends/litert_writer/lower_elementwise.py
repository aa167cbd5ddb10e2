"""Operators that work element by element, in whatever order their operands are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from graphopt.backends.litert_writer.emitter import Emitter, Lowering, Scrambled
from graphopt.backends.litert_writer.flat import FlatTensor
from graphopt.backends.litert_writer.layout import Order, logical
from graphopt.backends.litert_writer.schema import TENSOR_TYPES, schema
from graphopt.backends.litert_writer.values import INF, Grid, Op, UnwritableError, Value

_FLOAT = np.dtype(np.float32)
_ADD_RATIOS = (2.0**-9, 2.0**7)  # of scales, in which XNNPACK takes an ADD


def operand(em: Emitter, value: Value, order: Order) -> int:
    """The value as an operand of rank len(order), in that order: axes that it lacks have size 1."""
    missing = len(order) - value.rank
    if missing == 0:
        return em.want(value, order)
    own = tuple(axis - missing for axis in order if axis >= missing)
    if value.array is not None:
        shape = [1 if axis < missing else value.shape[axis - missing] for axis in order]
        grid = value.grid
        if grid is not None and not grid.is_single:
            grid = replace(grid, axis=order.index(grid.axis + missing))
        return em.array(value.array.transpose(own).reshape(shape), value.name, grid)
    source = em.want(value, own)
    if order[:missing] == tuple(range(missing)) or value.rank == 0:
        return source
    shape = [1 if axis < missing else value.shape[axis - missing] for axis in order]
    dynamic = [k for k, axis in enumerate(order) if axis - missing in value.dynamic]
    made = em.flat.add(FlatTensor(value.name, tuple(shape), value.dtype, value.grid, frozenset(dynamic)))
    em.reshape(source, made, shape, dynamic)
    return made


def binary(kind: str, *, fuses: bool = True) -> Lowering:
    """An operator of two broadcast operands."""

    def lower(em: Emitter, op: Op) -> None:
        left, right = op.input(0), op.input(1)
        order = em.common_order([left, right], op.output)
        operands = [operand(em, left, order), operand(em, right, order)]
        target, activation = em.result(op, order, fuses=fuses)
        if fuses:
            em.add(kind, operands, [target], fusedActivationFunction=activation)
        else:
            em.add(kind, operands, [target])

    return lower


def extremum(kind: str) -> Lowering:
    """Max or Min of any number of operands; integers come to the result's grid first, which keeps their order."""

    def lower(em: Emitter, op: Op) -> None:
        values = [v for v in op.inputs if v is not None]
        order = em.common_order(values, op.output)
        operands = [on_grid(em, operand(em, v, order), op.output.grid) for v in values]
        target, _ = em.result(op, order, fuses=False)
        if len(operands) == 1:
            em.add("MAXIMUM", [operands[0], operands[0]], [target])
        for k, other in enumerate(operands[1:], 1):
            last = k == len(operands) - 1
            made = target if last else em.temporary(op.output, order)
            em.add(kind, [operands[0], other], [made])
            operands[0] = made

    return lower


def on_grid(em: Emitter, tensor: int, grid: Grid | None) -> int:
    """An integer tensor on another grid; floats as they are."""
    found = em.flat.tensors[tensor]
    if grid is None or found.grid == grid:
        return tensor
    if found.array is not None and found.grid is not None:
        return em.array(grid.quantize(found.grid.dequantize(found.array)), found.name, grid)
    made = em.flat.add(FlatTensor(found.name, found.shape, found.dtype, grid, found.dynamic))
    requantize(em, tensor, made)
    return made


def requantize(em: Emitter, source: int, target: int, activation: int = 0) -> None:
    """Integers to another grid of the same type: x + 0.

    XNNPACK's kernel for QUANTIZE from int8 to int8 has 8 bits for the ratio of the scales, and is off by one for 2 % of
    all values; its ADD, with 20 bits, is exact, and so is LiteRT's own (measured).
    """
    grids = [em.flat.tensors[k].grid for k in (source, target)]
    assert grids[0] is not None
    assert grids[1] is not None
    ratio = grids[0].scale / grids[1].scale
    if not _ADD_RATIOS[0] < ratio < _ADD_RATIOS[1]:
        if activation:
            raise UnwritableError("the scales on both sides of its clamp are more than a factor of 128 apart")
        em.add("QUANTIZE", [source], [target])
        return
    zero = em.array(np.zeros(1, grids[0].dtype), "zero", Grid((grids[0].scale,), (0,), dtype=grids[0].dtype))
    em.add("ADD", [source, zero], [target], fusedActivationFunction=activation)


def convert(em: Emitter, op: Op) -> None:
    """A Q of its own: floats to integers, or integers to another grid or type."""
    data, result = op.input(0), op.output
    if data.dtype != result.dtype:
        emit_unary(em, op, "QUANTIZE", {})
        return
    order = em.common_order([data], result)
    requantize(em, em.want(data, order), em.declare(result, order))


def sum_of(em: Emitter, op: Op) -> None:
    """Sum or Mean of any number of operands → a chain of ADD; of integers a Sum of two."""
    values = [v for v in op.inputs if v is not None]
    if op.kind == "Sum" and len(values) == 2:
        binary("ADD")(em, op)
        return
    order = em.common_order(values, op.output)
    operands = [operand(em, v, order) for v in values]
    target, _ = em.result(op, order, fuses=False)
    total = operands[0]
    for other in operands[1:]:
        made = em.temporary(op.output, order)
        em.add("ADD", [total, other], [made])
        total = made
    share = np.array(1.0 / len(values) if op.kind == "Mean" else 1.0, np.float32)
    em.add("MUL", [total, em.array(share, "share")], [target])


def unary(kind: str, options: Callable[[Op], dict[str, object]] | None = None) -> Lowering:
    """An operator of one operand; a scrambled one stays so."""

    def lower(em: Emitter, op: Op) -> None:
        emit_unary(em, op, kind, {} if options is None else options(op))

    return lower


def emit_unary(em: Emitter, op: Op, kind: str, options: dict[str, object]) -> None:
    """One operator whose result is stored as its operand is."""
    data, result = op.input(0), op.output
    scrambled = em.scrambled.get(data)
    if scrambled is not None and not em.orders(data):
        if op.bounds == (-INF, INF):
            made = em.temporary(result, logical(result.rank))
            em.add(kind, [scrambled.tensor], [made], **options)
            em.scrambled[result] = Scrambled(made, scrambled.index)
            return
        em.want(data, logical(data.rank))
    order = em.common_order([data], result)
    target, _ = em.result(op, order, fuses=False)
    em.add(kind, [em.want(data, order)], [target], **options)


def cast(em: Emitter, op: Op) -> None:
    """Cast → CAST."""
    types = schema().TensorType
    source, target = op.input(0).dtype, op.output.dtype
    if source not in TENSOR_TYPES or target not in TENSOR_TYPES:
        raise UnwritableError(f"a Cast from {source} to {target} isn't written")
    codes = [getattr(types, TENSOR_TYPES[dtype]) for dtype in (source, target)]
    emit_unary(em, op, "CAST", {"inDataType": codes[0], "outDataType": codes[1]})


def where(em: Emitter, op: Op) -> None:
    """Where → SELECT_V2."""
    values = [op.input(k) for k in range(3)]
    order = em.common_order(values, op.output)
    target, _ = em.result(op, order, fuses=False)
    em.add("SELECT_V2", [operand(em, v, order) for v in values], [target])


def reciprocal(em: Emitter, op: Op) -> None:
    """1 / x"""
    data = op.input(0)
    order = em.common_order([data], op.output)
    target, _ = em.result(op, order, fuses=False)
    one = em.array(np.array(1.0, np.float32), "one")
    em.add("DIV", [one, em.want(data, order)], [target])


def is_nan(em: Emitter, op: Op) -> None:
    """Whether it is another than itself: torch's export guards each Softmax so, a row of which may be masked."""
    data = op.input(0)
    order = em.common_order([data], op.output)
    target, _ = em.result(op, order, fuses=False)
    em.add("NOT_EQUAL", [em.want(data, order)] * 2, [target])


def batch_norm(em: Emitter, op: Op) -> None:
    """BatchNormalization → MUL and ADD."""
    data = op.input(0)
    parameters = [op.constant(k) for k in range(1, 5)]
    gamma, beta, mean, variance = (p.astype(np.float64) for p in parameters if p is not None)
    scale = gamma / np.sqrt(variance + op.attr("epsilon", 1e-5))
    order = em.common_order([data], op.output)
    shape = [data.shape[1] if axis == 1 else 1 for axis in order]
    factors, offsets = (v.reshape(shape).astype(np.float32) for v in (scale, beta - mean * scale))
    scaled = em.temporary(op.output, order)
    target, activation = em.result(op, order)
    name = op.output.name
    em.add("MUL", [em.want(data, order), em.array(factors, f"{name}_scale")], [scaled])
    em.add("ADD", [scaled, em.array(offsets, f"{name}_offset")], [target], fusedActivationFunction=activation)


LOWERINGS: dict[str, Lowering] = {
    "Requantize": convert,
    "Dequantize": unary("DEQUANTIZE"),
    "Add": binary("ADD"),
    "Sub": binary("SUB"),
    "Mul": binary("MUL"),
    "Div": binary("DIV"),
    "Pow": binary("POW", fuses=False),
    "Max": extremum("MAXIMUM"),
    "Min": extremum("MINIMUM"),
    "Sum": sum_of,
    "Mean": sum_of,
    **{
        op: binary(kind, fuses=False)
        for op, kind in (
            ("Equal", "EQUAL"), ("Less", "LESS"), ("LessOrEqual", "LESS_EQUAL"), ("Greater", "GREATER"),
            ("GreaterOrEqual", "GREATER_EQUAL"), ("And", "LOGICAL_AND"), ("Or", "LOGICAL_OR"),
        )
    },
    **{
        op: unary(kind)
        for op, kind in (
            ("Exp", "EXP"), ("Log", "LOG"),
            ("Sqrt", "SQRT"), ("Abs", "ABS"), ("Neg", "NEG"), ("Floor", "FLOOR"), ("Ceil", "CEIL"), ("Sin", "SIN"),
            ("Cos", "COS"), ("Not", "LOGICAL_NOT"), ("Sign", "SIGN"), ("Round", "ROUND"),
        )
    },
    "Reciprocal": reciprocal,
    "IsNaN": is_nan,
    "Cast": cast,
    "Where": where,
    "BatchNormalization": batch_norm,
}  # fmt: skip
