"""When one operator gives back one of its inputs: op → rule(node, opset) → why, or None when it may do something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Node, Tensor, fixed_value
from graphopt.ir.dtypes import numpy_dtype
from graphopt.ir.operands import int_list, is_given, normalized_axes, parameter, same_shape, static_shape
from graphopt.ir.ops import is_never_negative, is_random

Rule: TypeAlias = Callable[[Node, int], str | None]

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_INT32_MAX = 2**31 - 1


def _identity(_node: Node, _opset: int) -> str | None:
    return "it copies its input"


def _dropout(node: Node, opset: int) -> str | None:
    return None if is_random(node, opset) else "Dropout does nothing in inference"


def _cast(node: Node, _opset: int) -> str | None:
    source = node.inputs[0].dtype
    if node.op == "CastLike":
        target = node.inputs[1].dtype
    else:
        to = node.attr("to")
        # Before opset 6 the attribute was a string.
        target = numpy_dtype(to) if isinstance(to, int) else None
    return f"its input is {source} already" if source is not None and source == target else None


def _reshape(node: Node, _opset: int) -> str | None:
    shape = node.inputs[0].shape
    if same_shape(shape, node.outputs[0].shape):
        return "its input has this shape already"
    if node.op != "Reshape" or shape is None:
        return None
    target = int_list(node, "shape", 1)
    if target is None or len(target) != len(shape) or node.attr("allowzero", 0):
        return None
    # 0 copies the axis; one axis left over holds what is left, so −1 there changes nothing (0 elements aside).
    left = [t for t, d in zip(target, shape, strict=True) if t != 0 and t != d]
    return "its input has this shape already" if not left or (left == [-1] and 0 not in shape) else None


def _flatten(node: Node, opset: int) -> str | None:
    rank = None if node.inputs[0].shape is None else len(node.inputs[0].shape)
    if rank == 2 and node.attr("axis", 1) in (1, -1):
        return "its input has two axes already"
    return _reshape(node, opset)


def _transpose(node: Node, _opset: int) -> str | None:
    perm, shape = node.attr("perm"), node.inputs[0].shape
    if perm is None:
        return "there is one axis at most" if shape is not None and len(shape) <= 1 else None
    return "it leaves each axis in its place" if list(perm) == sorted(perm) else None


def _pad(node: Node, _opset: int) -> str | None:
    pads = int_list(node, "pads", 1)
    return "all pads are 0" if pads is not None and not any(pads) else None


def _slice(node: Node, _opset: int) -> str | None:
    starts, ends = int_list(node, "starts", 1), int_list(node, "ends", 2)
    shape = node.inputs[0].shape
    if starts is None or ends is None:
        return None
    axes = int_list(node, "axes", 3) if is_given(node, "axes", 3) else list(range(len(starts)))
    steps = int_list(node, "steps", 4) if is_given(node, "steps", 4) else [1] * len(starts)
    if axes is None or steps is None or any(step != 1 for step in steps):
        return None
    for axis, start, end in zip(axes, starts, ends, strict=True):
        dim = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
        from_front = start == 0 or (isinstance(dim, int) and start <= -dim)
        to_back = end >= _INT32_MAX or (isinstance(dim, int) and end >= dim)
        if not (from_front and to_back):
            return None
    return "it takes everything"


def _one_input(node: Node, _opset: int) -> str | None:
    return "it has one input" if len(node.inputs) == 1 else None


def _split(node: Node, _opset: int) -> str | None:
    return "it has one output" if len(node.outputs) == 1 else None


def _expand(node: Node, _opset: int) -> str | None:
    if same_shape(node.inputs[0].shape, node.outputs[0].shape):
        return "its input has this shape already"
    target, shape = int_list(node, "shape", 1), node.inputs[0].shape
    if target is None:
        return None
    if not target:
        return "it expands to a scalar shape"
    if shape is None or len(target) > len(shape):
        return None
    kept = all(t in (1, d) for t, d in zip(reversed(target), reversed(shape), strict=False))
    return "its input has this shape already" if kept else None


def _tile(node: Node, opset: int) -> str | None:
    repeats = int_list(node, "repeats", 1) if opset >= 6 else None
    return "it repeats everything once" if repeats is not None and all(r == 1 for r in repeats) else None


def _neutral(index: int, value: int) -> Rule:
    """Input `index` is filled with `value`, which does nothing to the other one."""

    def rule(node: Node, _opset: int) -> str | None:
        operand, other = node.inputs[index], node.inputs[1 - index]
        constant = fixed_value(operand)
        if constant is None or not constant.size or constant.dtype == object or not (constant == value).all():
            return None
        return f"its operand is {value}" if constant.ndim == 0 or _keeps_shape(other, constant.shape) else None

    return rule


def _keeps_shape(tensor: Tensor, operand: tuple[int, ...]) -> bool:
    """Whether broadcasting `tensor` against the shape `operand` leaves its shape as it is."""
    if tensor.shape is None or len(operand) > len(tensor.shape):
        return False
    return all(d in (1, t) for d, t in zip(reversed(operand), reversed(tensor.shape), strict=False))


def _pool(node: Node, _opset: int) -> str | None:
    """A window of one element, moved by one."""
    ones = [*node.attr("kernel_shape", [0]), *node.attr("strides", [1])]
    return "its window is one element" if set(ones) == {1} and not any(node.attr("pads", [0])) else None


def _resize(node: Node, opset: int) -> str | None:
    """Scale 1. Not tf_half_pixel_for_nn (reads at x + 0.5) nor tf_crop_and_resize (reads a box)."""
    if node.attr("coordinate_transformation_mode", "half_pixel") in ("tf_half_pixel_for_nn", "tf_crop_and_resize"):
        return None
    if node.op == "Upsample" or opset < 11:
        scales = parameter(node, "scales", 1)
        return "all scales are 1" if scales is not None and scales.size and (scales == 1).all() else None
    scales, sizes = fixed_value(node.input(2)), int_list(node, "sizes", 3)
    if scales is not None and scales.size:
        return "all scales are 1" if (scales == 1).all() else None
    shape = static_shape(node.inputs[0].shape)
    if sizes is None or shape is None:
        return None
    axes = normalized_axes(list(node.attr("axes", range(len(shape)))), len(shape))
    same = axes is not None and sizes == [shape[axis] for axis in axes]
    return "its input has this size already" if same else None


def _clip(node: Node, _opset: int) -> str | None:
    low, high = parameter(node, "min", 1), parameter(node, "max", 2)
    open_below = not is_given(node, "min", 1) or (low is not None and _is_beyond(-low.astype(np.float64), low.dtype))
    open_above = not is_given(node, "max", 2) or (high is not None and _is_beyond(high.astype(np.float64), high.dtype))
    return "it has no bounds" if open_below and open_above else None


def _is_beyond(bound: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" and bound.size == 1 and bool((bound >= _FLOAT32_MAX).all())


def _relu(node: Node, _opset: int) -> str | None:
    return "its input is never negative" if is_never_negative(node.inputs[0]) else None


FIRST_INPUT: dict[str, Rule] = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Pad": _pad,
    "Slice": _slice,
    "Concat": _one_input,
    "Sum": _one_input,
    "Max": _one_input,
    "Min": _one_input,
    "Mean": _one_input,
    "Split": _split,
    "Expand": _expand,
    "Tile": _tile,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "Resize": _resize,
    "Upsample": _resize,
    "Clip": _clip,
    "Relu": _relu,
    "Mul": _neutral(1, 1),
    "Div": _neutral(1, 1),
    "Add": _neutral(1, 0),
    "Sub": _neutral(1, 0),
}
"""Operators that may give back their first input."""

SECOND_INPUT: dict[str, Rule] = {"Mul": _neutral(0, 1), "Add": _neutral(0, 0)}
"""Operators that may give back their second input."""
