"""Operators over whole axes: reductions, Softmax, normalizations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphopt.backends.litert_writer.emitter import Emitter, Lowering
from graphopt.backends.litert_writer.layout import Order, channels_last, logical, without
from graphopt.backends.litert_writer.schema import TENSOR_TYPES, schema
from graphopt.backends.litert_writer.values import Op, UnwritableError
from graphopt.ir.operands import normalized_axes


def _axes(op: Op) -> list[int]:
    rank = op.input(0).rank
    stated = op.ints(1, "axes")
    if not stated:
        return [] if op.attr("noop_with_empty_axes", 0) else list(range(rank))
    found = normalized_axes(stated, rank)
    if found is None:
        raise UnwritableError("its axes are out of range")
    return found


def reduction(kind: str, before: str | None = None, after: str | None = None) -> Lowering:
    """A reduction, and for float values an operator on each element before or after it."""

    def lower(em: Emitter, op: Op) -> None:
        data, axes, keep = op.input(0), _axes(op), bool(op.attr("keepdims", 1))
        wish = em.wish(op.output) if keep else None
        known = em.orders(data)
        order = wish if wish is not None and wish in known else next(iter(known), logical(data.rank))
        source = em.want(data, order)
        if before is not None:
            made = em.temporary(data, order)
            em.add(before, [source], [made])
            source = made
        target, _ = em.result(op, order if keep else without(order, axes), fuses=False)
        reduced = em.flat.add(replace(em.flat.tensors[target])) if after is not None else target
        positions = sorted(order.index(axis) for axis in axes)
        em.add(kind, [source, em.ints(positions, "axes")], [reduced], keepDims=keep)
        if after is not None:
            em.add(after, [reduced], [target])

    return lower


def arg(kind: str) -> Lowering:
    """ArgMax and ArgMin; LiteRT always drops the axis."""

    def lower(em: Emitter, op: Op) -> None:
        data = op.input(0)
        if op.attr("select_last_index", 0):
            raise UnwritableError("LiteRT takes the first of equal elements")
        axis = int(op.attr("axis", 0)) % data.rank
        order = next(iter(em.orders(data)), logical(data.rank))
        source, keep = em.want(data, order), bool(op.attr("keepdims", 1))
        dropped = without(order, [axis])
        target = em.declare(op.output, order if keep else dropped)
        code = getattr(schema().TensorType, TENSOR_TYPES[op.output.dtype])
        along = em.array(np.array(order.index(axis), np.int32), "axis")
        if not keep:
            em.add(kind, [source, along], [target], outputType=code)
            return
        shape = [data.shape[a] for a in order if a != axis]
        made = em.tensor(f"{op.output.name}_dropped", shape, op.output.dtype, None, op.output)
        em.add(kind, [source, along], [made], outputType=code)
        dynamic = [k for k, a in enumerate(order) if a in op.output.dynamic]
        em.reshape(made, target, [op.output.shape[a] for a in order], dynamic)

    return lower


def softmax(kind: str) -> Lowering:
    """Softmax and LogSoftmax, along the axis that is stored last."""

    def lower(em: Emitter, op: Op) -> None:
        data = op.input(0)
        axis = int(op.attr("axis", -1)) % data.rank
        order = _last(em.orders(data), axis, data.rank)
        source = em.want(data, order)
        target, _ = em.result(op, order, fuses=False)
        em.add(kind, [source], [target], **({"beta": 1.0} if kind == "SOFTMAX" else {}))

    return lower


def _last(known: list[Order], axis: int, rank: int) -> Order:
    """An order that ends with `axis`."""
    found = next((order for order in known if order[-1] == axis), None)
    return found or (*(a for a in range(rank) if a != axis), axis)


def layer_norm(em: Emitter, op: Op) -> None:
    """(x − mean) / sqrt(mean((x − mean)²) + epsilon) · scale + bias, over the last axes."""
    data = op.input(0)
    if len([v for v in op.outputs if v is not None]) > 1:
        raise UnwritableError("its mean and deviation aren't written")
    axis = int(op.attr("axis", -1)) % data.rank
    order = logical(data.rank)
    scale, bias = op.constant(1), op.constant(2)
    _normalize(em, op, order, list(range(axis, data.rank)), scale, bias)


def instance_norm(em: Emitter, op: Op) -> None:
    """The same over the spatial axes, for each channel."""
    data = op.input(0)
    order = next(iter(em.orders(data)), logical(data.rank))
    shape = [data.shape[1] if a == 1 else 1 for a in range(data.rank)]
    scale, bias = (v if v is None else v.reshape(shape).transpose(order) for v in (op.constant(1), op.constant(2)))
    _normalize(em, op, order, [k for k, a in enumerate(order) if a > 1], scale, bias)


def lrn(em: Emitter, op: Op) -> None:
    """LRN → LOCAL_RESPONSE_NORMALIZATION, whose alpha isn't divided by the size of the window."""
    data, size = op.input(0), int(op.attr("size"))
    if data.rank != 4 or size % 2 == 0:
        raise UnwritableError("only images are normalized so, over an odd number of channels")
    order = channels_last(4)
    target, _ = em.result(op, order, fuses=False)
    em.add(
        "LOCAL_RESPONSE_NORMALIZATION", [em.want(data, order)], [target], radius=size // 2,
        bias=float(op.attr("bias", 1.0)), alpha=float(op.attr("alpha", 1e-4)) / size, beta=float(op.attr("beta", 0.75)),
    )  # fmt: skip


def _normalize(
    em: Emitter, op: Op, order: Order, positions: list[int], scale: np.ndarray | None, bias: np.ndarray | None
) -> None:
    """Mean and variance over the stored axes `positions`; the two-pass form, which float32 bears."""
    data, result = op.input(0), op.output
    source = em.want(data, order)
    small = [1 if k in positions else data.shape[a] for k, a in enumerate(order)]
    axes, name = em.ints(positions, "axes"), result.name
    mean, variance, inverse = (
        em.tensor(f"{name}_{n}", small, data.dtype, None, data) for n in ("mean", "var", "rsqrt")
    )
    centred, squared = em.temporary(result, order), em.temporary(result, order)
    em.add("MEAN", [source, axes], [mean], keepDims=True)
    em.add("SUB", [source, mean], [centred])
    em.add("MUL", [centred, centred], [squared])
    em.add("MEAN", [squared, axes], [variance], keepDims=True)
    shifted = em.tensor(f"{name}_shifted", small, data.dtype, None, data)
    epsilon = em.array(np.array(op.attr("epsilon", 1e-5), np.float32), "epsilon")
    em.add("ADD", [variance, epsilon], [shifted])
    em.add("RSQRT", [shifted], [inverse])
    target, _ = em.result(op, order, fuses=False)
    steps = [("MUL", inverse)]
    if scale is not None:
        steps.append(("MUL", em.array(scale.astype(np.float32), f"{name}_scale")))
    if bias is not None:
        steps.append(("ADD", em.array(bias.astype(np.float32), f"{name}_bias")))
    current = centred
    for k, (kind, operand) in enumerate(steps):
        made = target if k == len(steps) - 1 else em.temporary(result, order)
        em.add(kind, [current, operand], [made])
        current = made


LOWERINGS: dict[str, Lowering] = {
    "ReduceMean": reduction("MEAN"),
    "ReduceSum": reduction("SUM"),
    "ReduceMax": reduction("REDUCE_MAX"),
    "ReduceMin": reduction("REDUCE_MIN"),
    "ReduceProd": reduction("REDUCE_PROD"),
    "ReduceSumSquare": reduction("SUM", before="SQUARE"),
    "ReduceL1": reduction("SUM", before="ABS"),
    "ReduceL2": reduction("SUM", before="SQUARE", after="SQRT"),
    "ArgMax": arg("ARG_MAX"),
    "ArgMin": arg("ARG_MIN"),
    "Softmax": softmax("SOFTMAX"),
    "LogSoftmax": softmax("LOG_SOFTMAX"),
    "LayerNormalization": layer_norm,
    "InstanceNormalization": instance_norm,
    "LRN": lrn,
}
