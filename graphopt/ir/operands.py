"""Parameters that are an attribute in some opsets and an input in others, read one way.

Squeeze and Unsqueeze axes moved in opset 13, Pad in 11, Slice in 10, Clip in 11, Split in 13, Reduce* in 13 and 18:
a node has one or the other, so looking at both is right at every opset.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.ir.elements import Node, Shape, fixed_value


def is_given(node: Node, attr: str, index: int) -> bool:
    """Whether the parameter is there at all, be its value known or not."""
    return attr in node.attrs or node.input(index) is not None


def parameter(node: Node, attr: str, index: int) -> NDArray[Any] | None:
    """The value of attribute `attr` or of constant input `index`; None when absent or known at run time only."""
    value = node.attr(attr)
    if value is not None:
        return np.asarray(value)
    return fixed_value(node.input(index))


def int_list(node: Node, attr: str, index: int) -> list[int] | None:
    """`parameter` as a flat list of ints (a scalar gives a list of one)."""
    value = parameter(node, attr, index)
    return None if value is None else [int(v) for v in value.reshape(-1)]


def normalized_axes(axes: list[int], rank: int) -> list[int] | None:
    """The axes counted from the front; None when one is out of range or named twice."""
    positive = [axis + rank if axis < 0 else axis for axis in axes]
    if any(not 0 <= axis < rank for axis in positive) or len(set(positive)) != len(positive):
        return None
    return positive


def static_shape(shape: Shape | None) -> tuple[int, ...] | None:
    """The shape when every axis is a known number, else None."""
    if shape is None:
        return None
    dims = tuple(d for d in shape if isinstance(d, int))
    return dims if len(dims) == len(shape) else None


def same_shape(left: Shape | None, right: Shape | None) -> bool:
    """Whether both shapes are known, axis by axis a number or a symbol, and equal."""
    return left is not None and right is not None and left == right and None not in left
