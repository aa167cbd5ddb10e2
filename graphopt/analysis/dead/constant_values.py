"""What is known of a tensor's values whatever the model's inputs are, and what that is in another shape.

It is an array of the tensor's rank that broadcasts against it: size 1 along an axis where the value is the same,
whatever the axis's size, and NaN where the value isn't known.

[1, 64, 1, 1] on [N, 64, 7, 7]  →  [1, 3136] on [N, 3136]           each channel's value 49 times
[1, 64, 1, 1] on [N, 64, 7, 7]  →  [1, 8, 8, 1, 1] on [N, 8, 8, 7, 7]
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Shape

Values: TypeAlias = NDArray[Any]
"""See the module; a constant's values are of its own rank."""

Known: TypeAlias = Sequence[Values | None]
"""What is known of each input of a node; None: nothing."""

# What a merged axis may hold: the values of all axes that were merged into it.
_MAX_VALUES = 1 << 20


def collapsed(values: Values, axes: Sequence[int]) -> Values:
    """`values` with size 1 along `axes`: NaN where they differ."""
    axes = tuple(axis for axis in axes if values.shape[axis] != 1)
    if not axes:
        return values
    first = values[tuple(slice(1) if axis in axes else slice(None) for axis in range(values.ndim))]
    same = (values == first).all(axis=axes, keepdims=True)  # NaN equals nothing
    return np.where(same, first, np.array(np.nan, values.dtype))


def reshaped(values: Values, shape: Shape | None, onto: Shape | None) -> Values | None:
    """`values` of a tensor of `shape` for the same elements in the shape `onto`; None when that isn't known.

    From the last axis on, runs of axes with as many elements on both sides are the same elements. What lies before the
    first size that isn't a number has to be the same along all of its axes.
    """
    if shape is None or onto is None or values.ndim != len(shape):
        return None
    inside: list[int] = []
    outside: list[int] = []
    old, new = len(shape), len(onto)
    while True:
        run = _run(shape[:old], onto[:new])
        if run is None:
            break
        taken, given = run
        sizes = [d for d in shape[old - taken : old] if isinstance(d, int)]
        differ = any(size != 1 for size in values.shape[old - taken : old])
        inside[:0] = sizes if differ else [1] * taken
        outside[:0] = [d for d in onto[new - given : new] if isinstance(d, int)] if differ else [1] * given
        old, new = old - taken, new - given
    if any(size != 1 for size in values.shape[:old]) or prod(inside) > _MAX_VALUES:
        return None
    return np.broadcast_to(values, [*[1] * old, *inside]).reshape(*[1] * new, *outside)


def _run(shape: Shape, onto: Shape) -> tuple[int, int] | None:
    """How many of the last axes on each side hold the same number of elements: the fewest, but at least one of both.

    None when an axis in question has no known size, or is empty.
    """
    if not shape or not onto:
        return None
    taken, given = 1, 1
    while True:
        left, right = shape[len(shape) - taken :], onto[len(onto) - given :]
        sizes = [d for d in (*left, *right) if isinstance(d, int)]
        if len(sizes) < taken + given or 0 in sizes:
            return None
        had, has = prod(sizes[:taken]), prod(sizes[taken:])
        if had == has:
            return taken, given
        if had < has:
            taken += 1
        else:
            given += 1
        if taken > len(shape) or given > len(onto):
            return None
