"""Convolutions and matrix products.

Weights are constants and come in LiteRT's order: [out, h, w, in], [1, h, w, out] for depthwise, [out, in] for a matrix
product, with the scales along `out`. An int32 bias has the scale s_x · s_w.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.backends.litert_writer.emitter import ABSENT, Emitter, Lowering
from graphopt.backends.litert_writer.layout import channels_last, logical
from graphopt.backends.litert_writer.padding import as_image, pad, read_image
from graphopt.backends.litert_writer.schema import schema
from graphopt.backends.litert_writer.values import Op, UnwritableError, Value
from graphopt.backends.litert_writer.weights import Weight, bias_tensor, weight_of
from graphopt.backends.litert_writer.windows import Window, stated_pads, windows


def conv(em: Emitter, op: Op) -> None:
    """Conv → CONV_2D or DEPTHWISE_CONV_2D; over one axis as an image of height 1."""
    data, stored = op.input(0), op.input(1)
    if stored.array is None:
        raise UnwritableError("its weight is not a constant")
    if data.rank not in (3, 4):
        raise UnwritableError(f"convolutions over {data.rank - 2} axes aren't written")
    groups, out_channels = int(op.attr("group", 1)), stored.shape[0]
    found = windows(op, stored.shape[2:])
    array = stored.array[:, :, None] if data.rank == 3 else stored.array
    is_depthwise = groups > 1 and groups == data.shape[1]
    weight = weight_of(stored, array.transpose((1, 2, 3, 0) if is_depthwise else (0, 2, 3, 1)), out_channels)
    slide(em, op, data, found, weight, op.optional(2), kind="DEPTHWISE_CONV_2D" if is_depthwise else "CONV_2D")


def slide(
    em: Emitter, op: Op, data: Value, found: list[Window], weight: Weight, bias: Value | None, kind: str
) -> None:  # fmt: skip
    """CONV_2D or DEPTHWISE_CONV_2D over windows of the first operand."""
    axis = 0 if kind == "CONV_2D" else 3
    channels = weight.array.shape[axis]
    source, padding = pad(em, data, found, read_image(em, data), 0.0)
    (stride_h, dilation_h), (stride_w, dilation_w) = _steps([(w.stride, w.dilation) for w in found])
    filters = weight.store(em, axis)
    extra = {} if kind == "CONV_2D" else {"depthMultiplier": channels // data.shape[1]}
    operands = [source, filters, bias_tensor(em, op, weight, bias, channels, is_depthwise=kind != "CONV_2D")]
    with as_image(em, op) as (target, activation):
        em.add(
            kind, operands, [target], padding=padding, strideH=stride_h, strideW=stride_w,
            dilationHFactor=dilation_h, dilationWFactor=dilation_w, fusedActivationFunction=activation, **extra,
        )  # fmt: skip


def _steps(found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Strides and dilations of both axes of an image."""
    return [(1, 1), *found] if len(found) == 1 else found


def conv_transpose(em: Emitter, op: Op) -> None:
    """ConvTranspose → TRANSPOSE_CONV, and a crop where its pads aren't those of SAME."""
    data, stored = op.input(0), op.input(1)
    if stored.array is None:
        raise UnwritableError("its weight is not a constant")
    if data.rank != 4:
        raise UnwritableError(f"transposed convolutions over {data.rank - 2} axes aren't written")
    if any(axis > 1 for axis in data.dynamic):
        raise UnwritableError("a spatial size changes with the batch")
    groups = int(op.attr("group", 1))
    out_channels = stored.shape[1] * groups
    array = _dilated(_ungrouped(stored.array, groups), [int(d) for d in op.attr("dilations") or (1, 1)])
    weight = weight_of(stored, array.transpose(1, 2, 3, 0), out_channels)
    strides = [int(s) for s in op.attr("strides") or (1, 1)]
    sizes, outs = data.shape[2:], op.output.shape[2:]
    kernel = weight.array.shape[1:3]
    begins = [begin for begin, _ in _transposed_pads(op, kernel, strides)]
    totals = [max((n - 1) * s + k - o, 0) for n, s, k, o in zip(sizes, strides, kernel, outs, strict=True)]
    is_same = all(-(-o // s) == n for o, s, n in zip(outs, strides, sizes, strict=True)) and all(
        t // 2 == b for t, b in zip(totals, begins, strict=True)
    )
    order = channels_last(4)
    source = em.want(data, order)
    filters = weight.store(em, 0)
    bias = bias_tensor(em, op, weight, op.optional(2), out_channels)
    target, activation = em.result(op, order)
    padding, shape, written = schema().Padding.SAME, outs, target
    if not is_same:
        padding = schema().Padding.VALID
        # The kernel writes what lies inside the size that it is told; what is cut off at the end needn't be written.
        shape = tuple(b + o for b, o in zip(begins, outs, strict=True))
        needed = tuple((n - 1) * s + k for n, s, k in zip(sizes, strides, kernel, strict=True))
        shape = tuple(max(a, b) for a, b in zip(shape, needed, strict=True))
    if shape != outs:
        written = em.temporary(op.output, order, (data.shape[0], *shape, out_channels))
    em.add(
        "TRANSPOSE_CONV", [em.ints([data.shape[0], *shape, out_channels], "shape"), filters, source, bias], [written],
        padding=padding, strideH=strides[0], strideW=strides[1], fusedActivationFunction=activation,
    )  # fmt: skip
    if written != target:
        begin, end = [0, *begins, 0], [data.shape[0], *(b + o for b, o in zip(begins, outs, strict=True)), out_channels]
        em.add(
            "STRIDED_SLICE",
            [written, em.ints(begin, "begin"), em.ints(end, "end"), em.ints([1] * 4, "strides")],
            [target],
        )


def _transposed_pads(op: Op, kernel: tuple[int, ...], strides: list[int]) -> list[tuple[int, int]]:
    """Rows cut off at the (begin, end) of each axis."""
    data, outs = op.input(0), op.output.shape[2:]
    auto = op.attr("auto_pad", "NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    if auto in ("NOTSET", "VALID") and not op.attr("output_shape"):
        return stated_pads(op, data, kernel)
    extra = [int(e) for e in op.attr("output_padding") or [0] * len(kernel)]
    pads: list[tuple[int, int]] = []
    for k, size in enumerate(data.shape[2:]):
        total = strides[k] * (size - 1) + extra[k] + kernel[k] - outs[k]
        small, large = total // 2, total - total // 2
        # ONNX: with output_shape alone the odd row is cut at the beginning unless auto_pad is SAME_UPPER.
        pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return pads


def _ungrouped(array: NDArray[Any], groups: int) -> NDArray[Any]:
    """[in, out/groups, …] as [in, out, …] with zeros between the groups."""
    if groups == 1:
        return array
    per_in, per_out = array.shape[0] // groups, array.shape[1]
    full = np.zeros((array.shape[0], per_out * groups, *array.shape[2:]), array.dtype)
    for g in range(groups):
        rows, columns = slice(g * per_in, (g + 1) * per_in), slice(g * per_out, (g + 1) * per_out)
        full[rows, columns] = array[rows]
    return full


def _dilated(array: NDArray[Any], dilations: list[int]) -> NDArray[Any]:
    """The kernel with the zeros between its elements written out."""
    if all(d == 1 for d in dilations):
        return array
    sizes = [(k - 1) * d + 1 for k, d in zip(array.shape[2:], dilations, strict=True)]
    full = np.zeros((*array.shape[:2], *sizes), array.dtype)
    full[:, :, :: dilations[0], :: dilations[1]] = array
    return full


def gemm(em: Emitter, op: Op) -> None:
    """Gemm with a constant weight → FULLY_CONNECTED; alpha and beta go into weight and bias."""
    data, stored = op.input(0), op.input(1)
    if stored.array is None or op.attr("transA", 0):
        raise UnwritableError("only a Gemm with a constant right operand and a left one as it is can be written")
    array = stored.array if op.attr("transB", 0) else stored.array.T
    alpha, beta, bias = op.attr("alpha", 1.0), op.attr("beta", 1.0), op.optional(2)
    if alpha != 1.0:
        # The product needn't be a float16 any more.
        stored = replace(stored, half=False)
        array = array * np.float32(alpha)
    if bias is not None and (beta != 1.0 or bias.size not in (1, array.shape[0])):
        real = bias.real() * np.float32(beta)
        if real.size not in (1, array.shape[0]):
            raise UnwritableError("its bias has a row for each row of the result")
        bias = Value(bias.name, real.dtype, real.shape, array=real)
    fully_connected(em, op, data, weight_of(stored, array, array.shape[0]), bias)


def matmul(em: Emitter, op: Op) -> None:
    """MatMul → FULLY_CONNECTED with a constant matrix on the right, else BATCH_MATMUL."""
    data, stored = op.input(0), op.input(1)
    if stored.array is not None and stored.rank == 2 and data.rank >= 2:
        fully_connected(em, op, data, weight_of(stored, stored.array.T, stored.shape[1]), op.bias)
        return
    if op.bias is not None or data.rank < 2 or stored.rank < 2:
        raise UnwritableError("matrix products with a vector aren't written")
    left, flip_left = _matrix(em, data)
    right, flip_right = _matrix(em, stored)
    target, _ = em.result(op, logical(op.output.rank), fuses=False)
    em.add("BATCH_MATMUL", [left, right], [target], adjX=flip_left, adjY=flip_right)


def _matrix(em: Emitter, value: Value) -> tuple[int, bool]:
    """The value in ONNX's order, or with its last two axes swapped where it is stored so."""
    straight = logical(value.rank)
    swapped = (*straight[:-2], straight[-1], straight[-2])
    known = em.orders(value)
    if swapped in known and straight not in known:
        return em.want(value, swapped), True
    return em.want(value, straight), False


def fully_connected(em: Emitter, op: Op, data: Value, weight: Weight, bias: Value | None) -> None:
    """X [..., in] · weight [out, in]ᵀ, in any order of x's axes that has `in` last."""
    channels = weight.array.shape[0]
    array, order, source = weight.array, logical(data.rank), None
    scrambled = em.scrambled.get(data)
    if scrambled is not None and logical(data.rank) not in em.orders(data):
        array, source = array[:, scrambled.index], scrambled.tensor
    else:
        order = next((o for o in em.orders(data) if o[-1] == data.rank - 1), order)
        source = em.want(data, order)
    filters = replace(weight, array=np.ascontiguousarray(array)).store(em, 0)
    vector = bias_tensor(em, op, weight, bias, channels) if bias is not None or op.is_integer else ABSENT
    target, activation = em.result(op, order)
    em.add(
        "FULLY_CONNECTED", [source, filters, vector], [target], fusedActivationFunction=activation,
        keepNumDims=data.rank != 2,
    )  # fmt: skip


LOWERINGS: dict[str, Lowering] = {"Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": matmul}
