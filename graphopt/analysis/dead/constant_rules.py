"""How known values (see `constant_values`) go through operators that compute elementwise, pool, or join activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from graphopt.analysis.dead.constant_values import Known, Values, collapsed
from graphopt.ir import FLOAT_TYPES, Node, Variable
from graphopt.ir.evaluate import evaluate
from graphopt.ir.kernels import NotEvaluableError
from graphopt.ir.operands import int_list, is_given, normalized_axes, parameter
from graphopt.ir.ops import is_random

Rule: TypeAlias = Callable[[Node, Values, int], Values | None]
"""(node, what is known of its first input, opset) → what is known of its first output."""


def elementwise(node: Node, operands: Known, opset: int) -> Values | None:
    """The function of the values where all operands are known."""
    values = [v for v in operands if v is not None]
    if len(values) < len(operands):
        return None
    filled = [np.where(np.isnan(v), np.ones((), v.dtype), v) for v in values]
    # A node of its own: the model's one states the whole output's shape, and these arrays are narrower.
    alone = Node(node.op, node.name, dict(node.attrs), (), [Variable("value")], node.domain)
    try:
        (result,) = evaluate(alone, filled, opset)
    except NotEvaluableError:
        return None
    unknown = np.zeros(result.shape, dtype=bool)
    for value in values:
        unknown = unknown | np.isnan(value)
    return np.where(unknown, np.nan, result) if result.dtype in FLOAT_TYPES else None


def zero_product(operands: Known) -> Values | None:
    """0 where one factor is 0 and the other isn't known to be infinite; None when there is no such place."""
    left, right = (np.full((), np.nan) if v is None else v for v in operands)
    zero = ((left == 0) & ~np.isinf(right)) | ((right == 0) & ~np.isinf(left))
    return np.where(zero, 0.0, np.nan) if zero.any() else None


def zero_lines(operands: Known) -> Values | None:
    """Of a product of matrices: 0 in rows where the left one's is 0, in columns where the right one's is."""
    left, right = (None if v is None or v.ndim < 2 else v for v in operands)
    rows = None if left is None else collapsed(left, [left.ndim - 1])
    return zero_product([rows, None if right is None else collapsed(right, [right.ndim - 2])])


def concatenated(node: Node, operands: Known) -> Values | None:
    """Along the axis one after the other; along the others what all agree on stays narrow."""
    rank = next(v.ndim for v in operands if v is not None)
    axes = normalized_axes([int(node.attr("axis", 1))], rank)
    if axes is None:
        return None
    axis = axes[0]
    sizes = [t.shape[axis] for t in node.inputs if t.shape is not None and len(t.shape) == rank]
    lengths = [size for size in sizes if isinstance(size, int)]
    if len(lengths) < len(node.inputs):
        return None
    parts = [np.full((1,) * rank, np.nan) if v is None else v for v in operands]
    try:
        around = np.broadcast_shapes(*((*p.shape[:axis], 1, *p.shape[axis + 1 :]) for p in parts))
    except ValueError:
        return None
    shapes = [(*around[:axis], length, *around[axis + 1 :]) for length in lengths]
    return np.concatenate([np.broadcast_to(p, shape) for p, shape in zip(parts, shapes, strict=True)], axis)


def split(node: Node, values: Values) -> list[Values | None]:
    """The parts, by the sizes of the outputs."""
    axes = normalized_axes([int(node.attr("axis", 0))], values.ndim)
    if axes is None:
        return []
    if values.shape[axes[0]] == 1:
        return [values] * len(node.outputs)
    sizes = [None if t.shape is None else t.shape[axes[0]] for t in node.outputs]
    if not all(isinstance(size, int) for size in sizes):
        return []
    ends = np.cumsum([size for size in sizes if isinstance(size, int)])
    return list(np.split(values, ends[:-1], axes[0]))


def _same(_node: Node, values: Values, _opset: int) -> Values:
    return values


def _dropout(node: Node, values: Values, opset: int) -> Values | None:
    return None if is_random(node, opset) else values


def _clip(node: Node, values: Values, _opset: int) -> Values | None:
    bounds: list[Any] = []
    for index, name in enumerate(("min", "max"), start=1):
        bound = parameter(node, name, index)
        if bound is None and is_given(node, name, index):
            return None
        bounds.append(bound)
    low, high = bounds
    values = values if low is None else np.maximum(values, low)
    return values if high is None else np.minimum(values, high)


def _pool(node: Node, values: Values, _opset: int) -> Values | None:
    """The maximum or mean of equal values; padding that counts, or fills a whole window, leaves 0 only or nothing."""
    values = collapsed(values, range(2, values.ndim))
    padded = any(node.attr("pads") or [0]) or str(node.attr("auto_pad", "NOTSET")).startswith("SAME")
    if not padded and not node.attr("ceil_mode", 0):
        return values
    if node.is_op("MaxPool"):
        return None if any(d != 1 for d in node.attr("dilations") or [1]) else values
    return np.where(values == 0, values, np.nan) if node.attr("count_include_pad", 0) else values


def _resize(node: Node, values: Values, _opset: int) -> Values | None:
    """Interpolation weights sum to 1; only cropping brings another value in."""
    if node.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return None
    return collapsed(values, range(2, values.ndim))


def _reduce(node: Node, values: Values, _opset: int) -> Values | None:
    """Mean and extremes of equal values; sums and norms of zeros."""
    axes = int_list(node, "axes", 1)
    if axes is None:
        if is_given(node, "axes", 1):
            return None
        axes = [] if node.attr("noop_with_empty_axes", 0) else list(range(values.ndim))
    found = normalized_axes(axes, values.ndim)
    if found is None or not found:
        return None
    values = collapsed(values, found)
    if not node.is_op("ReduceMean", "ReduceMax", "ReduceMin"):
        values = np.where(values == 0, values, np.nan)
    return values if node.attr("keepdims", 1) else values.squeeze(tuple(found))


def _top_k(node: Node, values: Values, _opset: int) -> Values | None:
    """The largest of equal values."""
    axes = normalized_axes([int(node.attr("axis", -1))], values.ndim)
    return None if axes is None else collapsed(values, axes)


def _cumulated(node: Node, values: Values, _opset: int) -> Values | None:
    """Sums of zeros."""
    axes = normalized_axes(int_list(node, "axis", 1) or [values.ndim], values.ndim)
    return None if axes is None else np.where(collapsed(values, axes) == 0, 0.0, np.nan)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), _pool),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"), _reduce),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin"), _reduce),
    **dict.fromkeys(("Cast", "Expand", "Identity"), _same),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Clip": _clip,
    "CumSum": _cumulated,
    "Dropout": _dropout,
    "TopK": _top_k,
}
"""Operators of one activation that don't only move it; `constant_moves` has the others."""
