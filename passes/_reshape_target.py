"""Say a Reshape's target in numbers when it is known in part.

    x: float[N,8,4], target [N, 32]           →      [-1, 32]
    x: float[N,M,8], target [N, M, 2, 4]      →      [0, 0, 2, 4]
    x: float[N,8,M], target [N, 2, 4, M]      →      [0, 2, 4, -1]

0 copies the axis of the data in the same place; −1, once, is whatever is left.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from graphopt.ir import Shape


def reshape_target(dims: Sequence[Any], shape: Shape, input_symbols: Set[str]) -> list[int] | None:
    """The target in numbers, or None when 0 and −1 can't stand for all that isn't known.

    Args:
        dims: the target: a number, a symbol (str) or None for each axis.
        shape: of the data.
        input_symbols: symbols of the model's inputs; nobody runs an empty batch.
    """
    found = list(dims)
    open_axes = [i for i, d in enumerate(found) if not is_number(d) or d < 0]
    if len(open_axes) > 1:
        copied = [i for i in open_axes if i < len(shape) and isinstance(found[i], str) and found[i] == shape[i]]
        for i in copied:
            found[i] = 0
        open_axes = [i for i in open_axes if i not in copied]
    if len(open_axes) > 1:
        return None
    if open_axes and not all(_is_never_empty(shape, i, input_symbols) for i, d in enumerate(found) if d == 0):
        return None  # −1 can't be worked out when another axis is 0
    for i in open_axes:
        found[i] = -1
    return [int(d) for d in found]


def is_number(dim: Any) -> bool:
    """Whether a dimension is known."""
    return isinstance(dim, (int, np.integer))


def _is_never_empty(shape: Shape, axis: int, input_symbols: Set[str]) -> bool:
    """Whether the axis has elements. A symbol that an operator brings in may count detections; there can be none."""
    if axis >= len(shape):
        return False
    dim = shape[axis]
    return dim in input_symbols if isinstance(dim, str) else bool(dim)
