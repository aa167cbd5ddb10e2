"""Numpy versions of the operators that constant and shape arithmetic is made of.

They cover every opset (parameters as attributes or inputs) and are exact. `evaluate` uses them first, because
building an onnx.reference evaluator for each node costs about a millisecond. Those in MOVES also work on object
arrays, where an element may be a symbol: that is how partly known shapes are followed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from graphopt.ir.dtypes import numpy_dtype
from graphopt.ir.elements import Constant, Node

Array: TypeAlias = NDArray[Any]
Inputs: TypeAlias = Sequence[Array | None]
Kernel: TypeAlias = Callable[[Node, Inputs], Array]


class NotEvaluableError(Exception):
    """The value can't be computed here; the message says why. Passes turn it into a remark."""


def _needed(inputs: Inputs, index: int) -> Array:
    value = inputs[index] if index < len(inputs) else None
    if value is None:
        raise NotEvaluableError(f"input {index} is missing")
    return value


def _ints(node: Node, inputs: Inputs, attr: str, index: int) -> list[int] | None:
    value = node.attr(attr)
    if value is None:
        value = inputs[index] if index < len(inputs) else None
    return None if value is None else [int(v) for v in np.asarray(value).reshape(-1)]


def _arithmetic(function: Callable[[Array, Array], Array]) -> Kernel:
    def kernel(node: Node, inputs: Inputs) -> Array:
        if node.attr("broadcast"):
            raise NotEvaluableError("it broadcasts by an axis attribute (opset 6 and before)")
        left, right = _needed(inputs, 0), _needed(inputs, 1)
        return function(left, right)

    return kernel


def _divide(left: Array, right: Array) -> Array:
    """Integers are cut towards zero, as in C; numpy's floor division rounds down."""
    if left.dtype.kind not in "iu":
        return np.divide(left, right)
    if not right.all():
        raise NotEvaluableError("an integer division by zero has no defined result")
    quotient = np.floor_divide(left, right)
    cut = (quotient < 0) & (quotient * right != left)
    return quotient + cut.astype(left.dtype)


def _is_common(dtype: np.dtype[Any]) -> bool:
    """Bool, integers and floats of 16 bits and more: every engine rounds to nearest even there."""
    return dtype.kind in "biuf" or dtype == ml_dtypes.bfloat16


def _cast(node: Node, inputs: Inputs) -> Array:
    value = _needed(inputs, 0)
    target = numpy_dtype(node.attr("to"))
    if not (_is_common(value.dtype) and _is_common(target)):
        raise NotEvaluableError(f"conversion from {value.dtype} to {target} depends on rounding and saturation rules")
    if value.dtype.kind not in "biu" and target.kind in "iu" and value.size:
        limits = np.iinfo(target)
        # In float64: the limits of int64 round to the next power of two, which is out of range already.
        wide = value.astype(np.float64)
        if not (np.isfinite(wide).all() and wide.min() > limits.min - 1.0 and wide.max() < limits.max + 1.0):
            raise NotEvaluableError(f"a value is out of the range of {target}; the result depends on the machine")
    return value.astype(target)


def _reshape(node: Node, inputs: Inputs) -> Array:
    value, target = _needed(inputs, 0), _ints(node, inputs, "shape", 1)
    if target is None:
        raise NotEvaluableError("the shape is missing")
    if not node.attr("allowzero", 0):
        target = [value.shape[i] if d == 0 else d for i, d in enumerate(target)]
    return value.reshape(target)


def _flatten(node: Node, inputs: Inputs) -> Array:
    value, axis = _needed(inputs, 0), int(node.attr("axis", 1))
    axis = axis + value.ndim if axis < 0 else axis
    return value.reshape(math.prod(value.shape[:axis]), math.prod(value.shape[axis:]))


def _transpose(node: Node, inputs: Inputs) -> Array:
    return np.ascontiguousarray(_needed(inputs, 0).transpose(node.attr("perm")))


def _squeeze(node: Node, inputs: Inputs) -> Array:
    axes = _ints(node, inputs, "axes", 1)
    return np.squeeze(_needed(inputs, 0), None if axes is None else tuple(axes))


def _unsqueeze(node: Node, inputs: Inputs) -> Array:
    axes = _ints(node, inputs, "axes", 1)
    if axes is None:
        raise NotEvaluableError("the axes are missing")
    return np.expand_dims(_needed(inputs, 0), tuple(axes))


def _concat(node: Node, inputs: Inputs) -> Array:
    return np.concatenate([_needed(inputs, i) for i in range(len(inputs))], int(node.attr("axis", 1)))


def _slice(node: Node, inputs: Inputs) -> Array:
    value = _needed(inputs, 0)
    starts, ends = _ints(node, inputs, "starts", 1), _ints(node, inputs, "ends", 2)
    if starts is None or ends is None:
        raise NotEvaluableError("starts or ends are missing")
    axes = _ints(node, inputs, "axes", 3) or list(range(len(starts)))
    steps = _ints(node, inputs, "steps", 4) or [1] * len(starts)
    index = [slice(None)] * value.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = value.shape[axis]
        if step < 0 and end < -size:
            index[axis] = slice(start, None, step)  # past the front: python would count it from the back
        else:
            index[axis] = slice(start, end, step)
    return np.ascontiguousarray(value[tuple(index)])


def _gather(node: Node, inputs: Inputs) -> Array:
    value, indices, axis = _needed(inputs, 0), _needed(inputs, 1), int(node.attr("axis", 0))
    axis = axis + value.ndim if axis < 0 else axis
    size = value.shape[axis]
    if indices.size and not (-size <= indices.min() and indices.max() < size):
        raise NotEvaluableError(f"an index is out of range for axis {axis} of size {size}")
    # By a flat list: with a 0-d index numpy unpacks the element, and a symbol would become a string array.
    taken = np.take(value, indices.reshape(-1), axis)
    return taken.reshape(value.shape[:axis] + indices.shape + value.shape[axis + 1 :])


def _expand(_node: Node, inputs: Inputs) -> Array:
    value, target = _needed(inputs, 0), [int(d) for d in _needed(inputs, 1)]
    return np.array(np.broadcast_to(value, np.broadcast_shapes(value.shape, tuple(target))))


def _tile(_node: Node, inputs: Inputs) -> Array:
    return np.tile(_needed(inputs, 0), [int(r) for r in _needed(inputs, 1)])


def _constant_of_shape(node: Node, inputs: Inputs) -> Array:
    fill = node.attr("value")
    value = fill.values if isinstance(fill, Constant) else np.zeros(1, np.float32)
    return np.full([int(d) for d in _needed(inputs, 0)], value.reshape(-1)[0], value.dtype)


def _range(_node: Node, inputs: Inputs) -> Array:
    start, limit, delta = (_needed(inputs, i).reshape(-1)[0] for i in range(3))
    if start.dtype.kind not in "iu":
        raise NotEvaluableError("a float range adds up rounding errors in an order that backends choose")
    return np.arange(start, limit, delta, dtype=start.dtype)


def _clip(node: Node, inputs: Inputs) -> Array:
    """Bounds are attributes before opset 11, inputs since; where they cross, the upper one wins (ONNX says so)."""
    value = _needed(inputs, 0)
    bounds = [inputs[k] if len(inputs) > k else node.attr(name) for k, name in ((1, "min"), (2, "max"))]
    low, high = (None if b is None else np.asarray(b).astype(value.dtype).reshape(()) for b in bounds)
    value = value if low is None else np.maximum(value, low)
    return value if high is None else np.minimum(value, high)


MOVES: dict[str, Kernel] = {
    "Identity": lambda _, inputs: _needed(inputs, 0),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Slice": _slice,
    "Gather": _gather,
}
"""Elements are moved and copied, never computed with: object arrays go through too."""

KERNELS: dict[str, Kernel] = {
    **MOVES,
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
    "Div": _arithmetic(_divide),
    "Equal": _arithmetic(np.equal),
    "Cast": _cast,
    "Clip": _clip,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
}
