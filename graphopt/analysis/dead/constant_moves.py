"""How known values (see `constant_values`) go through operators that only move values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from graphopt.analysis.dead.constant_values import Values, collapsed, reshaped
from graphopt.ir import Node, fixed_value
from graphopt.ir.operands import int_list, is_given, normalized_axes, parameter
from graphopt.ir.ops import RESHAPES

Move: TypeAlias = Callable[[Node, Values], Values | None]


def _transpose(node: Node, values: Values) -> Values:
    return values.transpose(node.attr("perm"))


def _reshape(node: Node, values: Values) -> Values | None:
    return reshaped(values, node.inputs[0].shape, node.outputs[0].shape)


def _slice(node: Node, values: Values) -> Values | None:
    starts, ends = int_list(node, "starts", 1), int_list(node, "ends", 2)
    axes, steps = int_list(node, "axes", 3), int_list(node, "steps", 4)
    if starts is None or ends is None or (axes is None and is_given(node, "axes", 3)):
        return None
    if steps is None and is_given(node, "steps", 4):
        return None
    found = normalized_axes(list(range(len(starts))) if axes is None else axes, values.ndim)
    if found is None:
        return None
    for axis, start, end, step in zip(found, starts, ends, steps or [1] * len(starts), strict=True):
        size = values.shape[axis]
        if size != 1:  # else the same all along the axis, however much of it is taken
            until = None if step < 0 and end < -size else end  # past the front: python would count it from the back
            values = values[(slice(None),) * axis + (slice(start, until, step),)]
    return values


def _gather(node: Node, values: Values) -> Values | None:
    axes = normalized_axes([int(node.attr("axis", 0))], values.ndim)
    rank, indices = node.inputs[1].shape, fixed_value(node.inputs[1])
    if axes is None or rank is None:
        return None
    if indices is None or values.shape[axes[0]] == 1:
        values = collapsed(values, axes)
        return values.reshape(*values.shape[: axes[0]], *[1] * len(rank), *values.shape[axes[0] + 1 :])
    size = values.shape[axes[0]]
    inside = indices.size and -size <= indices.min() and indices.max() < size
    return np.take(values, indices, axes[0]) if inside else None


def _pad(node: Node, values: Values) -> Values | None:
    pads = int_list(node, "pads", 1)
    axes = int_list(node, "axes", 3) if is_given(node, "axes", 3) else list(range(values.ndim))
    axes = None if axes is None else normalized_axes(axes, values.ndim)
    fill = parameter(node, "value", 2) if is_given(node, "value", 2) else np.zeros(())
    if pads is None or axes is None or fill is None or fill.size != 1 or len(pads) != 2 * len(axes) or min(pads) < 0:
        return None
    constant = node.attr("mode", "constant") == "constant"
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if before == after == 0:
            continue
        if values.shape[axis] == 1:
            values = np.where(values == fill.reshape(()), values, np.nan) if constant else values
        elif constant:
            widths = [(before, after) if a == axis else (0, 0) for a in range(values.ndim)]
            values = np.pad(values, widths, constant_values=fill.reshape(()))
        else:
            return None
    return values


def _tile(node: Node, values: Values) -> Values | None:
    repeats = fixed_value(node.input(1))
    if repeats is None or len(repeats) != values.ndim:
        return None
    return np.tile(values, [int(r) if size > 1 else 1 for r, size in zip(repeats, values.shape, strict=True)])


def _depth_to_space(node: Node, values: Values) -> Values | None:
    values, block = collapsed(values, (0, 2, 3)), int(node.attr("blocksize", 1))
    channels = values.size // block**2
    if values.size == 1 or channels * block**2 != values.size:
        return values if values.size == 1 else None
    if node.attr("mode", "DCR") == "DCR":
        return collapsed(values.reshape(block**2, channels), (0,)).reshape(1, channels, 1, 1)
    return collapsed(values.reshape(channels, block**2), (1,)).reshape(1, channels, 1, 1)


def _space_to_depth(node: Node, values: Values) -> Values | None:
    values = collapsed(values, (0, 2, 3))
    return np.tile(values, (1, int(node.attr("blocksize", 1)) ** 2, 1, 1)) if values.size > 1 else values


MOVES: dict[str, Move] = {
    **dict.fromkeys(RESHAPES, _reshape),
    "DepthToSpace": _depth_to_space,
    "Gather": _gather,
    "Pad": _pad,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Tile": _tile,
    "Transpose": _transpose,
}
"""Operators of one activation: (node, what is known of it) → what is known of the result."""
