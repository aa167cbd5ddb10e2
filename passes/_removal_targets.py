"""Operands that say a shape, once channels are removed: of Reshape, Expand, ConstantOfShape, Resize and Tile."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.ir import Node
from graphopt.passes._removal_cuts import Cuts, Mend, axes_of, failure, known_size, rank_of
from graphopt.passes._removal_sizes import Sizes


def _target(node: Node, cuts: Cuts, index: int, length: int, wanted: Mapping[int, int]) -> Mend:
    """Operand `index`, a list of sizes: those in `wanted` change, the others stay as they are."""
    before = cuts.sizes.before(node.inputs[index])
    if before is None:
        before = Sizes(np.zeros(length, dtype=np.int64), np.zeros(length, dtype=bool))
    values, known = before.values.copy(), before.known.copy()
    for place, size in wanted.items():
        values[place], known[place] = size, True
    return Mend(operands={index: Sizes(values, known)})


def _old(node: Node, cuts: Cuts, index: int, place: int) -> int | None:
    """What an operand says at `place`, or None where that isn't known before the model runs."""
    before = cuts.sizes.before(node.inputs[index])
    return int(before.values[place]) if before is not None and before.known[place] else None


def reshape_rule(node: Node, cuts: Cuts) -> Mend:
    """The target; 0 and −1 stay where they still mean the right size."""
    data, result = node.inputs[0], node.outputs[0]
    wanted: dict[int, int] = {}
    for axis in range(rank_of(result)):
        old = _old(node, cuts, 1, axis)
        copies = old == 0 and not node.attr("allowzero", 0)
        cut, source = cuts.of(result, axis), cuts.of(data, axis) if axis < rank_of(data) else None
        if old == -1 or (copies and (cut is None) == (source is None)):
            continue  # whatever is left, or what the data has in the same place: it follows by itself
        if cut is not None or (copies and source is not None):
            wanted[axis] = cuts.left(result, axis)
    return _target(node, cuts, 1, rank_of(result), wanted)


def expand_rule(node: Node, cuts: Cuts) -> Mend:
    """The target, which may be shorter than the result's shape; 1 takes what the data has."""
    result = node.outputs[0]
    before = cuts.sizes.before(node.inputs[1])
    length = known_size(node.inputs[1], 0) if before is None else len(before.values)
    offset = rank_of(result) - length
    places = [axis - offset for axis in cuts.axes(result) if axis >= offset]
    wanted = {p: cuts.left(result, p + offset) for p in places if _old(node, cuts, 1, p) != 1}
    return _target(node, cuts, 1, length, wanted)


def constant_of_shape_rule(node: Node, cuts: Cuts) -> Mend:
    """The shape."""
    result = node.outputs[0]
    return _target(node, cuts, 0, rank_of(result), {axis: cuts.left(result, axis) for axis in cuts.axes(result)})


def resize_rule(node: Node, cuts: Cuts) -> Mend:
    """`sizes`; `scales` are 1 along channels."""
    data, result = node.inputs[0], node.outputs[0]
    axes = axes_of(node, node.attr("axes"), rank_of(data))
    for axis in cuts.axes(data):
        if not np.array_equal(cuts.all_of(data, axis), cuts.all_of(result, axis)):
            raise failure(node, f"it resizes axis {axis}")
    if node.input(3) is None:
        return Mend()
    wanted = {axes.index(a): cuts.left(result, a) for a in cuts.axes(result) if a in axes}
    return _target(node, cuts, 3, len(axes), wanted)


def tile_rule(node: Node, cuts: Cuts) -> Mend:
    """Numbers of copies."""
    data, result = node.inputs[0], node.outputs[0]
    wanted: dict[int, int] = {}
    for axis in cuts.axes(result):
        copies, rest = divmod(cuts.left(result, axis), cuts.left(data, axis))
        if rest:
            raise failure(node, "its copies keep different channels")
        wanted[axis] = copies
    return _target(node, cuts, 1, rank_of(data), wanted)
