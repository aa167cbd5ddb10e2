"""Which range each tensor has by the Q/DQ pairs that stood at it, and what follows for its neighbours."""

from __future__ import annotations

from functools import reduce

import numpy as np

from graphopt.analysis.legality.grid import Grid
from graphopt.analysis.legality.skeleton import Skeleton
from graphopt.analysis.placement import Placement
from graphopt.ir import Constant, Graph, Node, Tensor, fixed_value
from graphopt.ir.ops import RESHAPES
from graphopt.quant import Range

Ranges = dict[Tensor, Range]

_SAME_VALUES = RESHAPES | {"DepthToSpace", "Identity", "SpaceToDepth", "Transpose"}
# The output covers no more than the inputs together.
_SELECTS = _SAME_VALUES | {"Concat", "Expand", "Gather", "GlobalMaxPool", "MaxPool", "ReduceMax", "Slice", "Split"}
# What an input has beyond the output's range is cut off at the output all the same.
_CLIPS_LATER = _SAME_VALUES | {"Concat", "MaxPool"}


def known_ranges(found: Skeleton) -> Ranges:
    """The range of every variable that was read or written on a grid: all its readers' together."""
    ranges: Ranges = {}
    for node in found.graph.nodes:
        for index, tensor in node.present_inputs():
            _widen(ranges, tensor, found.read(node, index))
    for position, grids in found.outputs.items():
        _widen(ranges, found.graph.outputs[position], grids)
    for tensor, written in found.writes.items():
        if tensor not in ranges:
            _widen(ranges, tensor, written[:1])
    return ranges


def _widen(ranges: Ranges, tensor: Tensor, grids: tuple[Grid, ...] | list[Grid]) -> None:
    if not grids or isinstance(tensor, Constant):
        return
    covered = [grid.range() for grid in grids]
    if any(c is None for c in covered):
        return
    # Pairs one behind the other saturate at the narrower of them.
    chain = reduce(_intersection, (c for c in covered if c is not None))
    ranges[tensor] = chain if tensor not in ranges else ranges[tensor].union(chain)


def _intersection(one: Range, other: Range) -> Range:
    low, high = np.maximum(one.low, other.low), np.minimum(one.high, other.high)
    return Range(low, np.maximum(low, high))


def cut_to_activations(graph: Graph, ranges: Ranges) -> None:
    """Let the integers behind a Relu or Clip reach no further than it does, as kernels that fuse it by that want it."""
    for node in graph.nodes:
        result = node.outputs[0] if node.is_op("Relu", "Clip") else None
        if result is not None and result in ranges:
            low, high = bounds(node)
            covered = ranges[result]
            ranges[result] = Range(np.clip(covered.low, low, high), np.clip(covered.high, low, high))


def spread(graph: Graph, ranges: Ranges) -> None:
    """Add the ranges that follow from known ones: through operators that move values, Relu and Clip."""
    for _ in range(2):
        for node in graph.nodes:
            _forward(node, ranges)
        for node in reversed(graph.nodes):
            _backward(node, ranges)


def shared_ranges(placement: Placement, ranges: Ranges) -> Ranges:
    """`ranges`, and those of tensors that share a scale with tensors whose range is known."""
    groups: dict[Tensor, Range] = {}
    shared = placement.shared
    for tensor, covered in ranges.items():
        if tensor in shared.parents:
            root = shared[tensor]
            groups[root] = covered if root not in groups else groups[root].union(covered)
    members = [t for t in shared.parents if t not in ranges and shared[t] in groups]
    return {**ranges, **{t: groups[shared[t]] for t in members if not isinstance(t, Constant)}}


def _forward(node: Node, ranges: Ranges) -> None:
    missing = [t for t in node.present_outputs() if t not in ranges]
    if not missing or node.input(0) is None:
        return
    if node.is_op(*_SELECTS):
        sources = node.inputs if node.op == "Concat" else node.inputs[:1]
        known = [ranges.get(t) for t in sources]
        if all(k is not None for k in known):
            found = reduce(Range.union, (k for k in known if k is not None))
            ranges.update(dict.fromkeys(missing, found))
    elif node.is_op("Relu", "Clip") and node.inputs[0] in ranges:
        low, high = bounds(node)
        source = ranges[node.inputs[0]]
        cut = Range(np.clip(source.low, low, high), np.clip(source.high, low, high))
        ranges.update(dict.fromkeys(missing, cut))


def _backward(node: Node, ranges: Ranges) -> None:
    if not node.is_op(*_CLIPS_LATER) or len(node.present_outputs()) != 1 or node.outputs[0] not in ranges:
        return
    for tensor in node.inputs if node.op == "Concat" else node.inputs[:1]:
        if tensor not in ranges and not isinstance(tensor, Constant) and len(tensor.outputs) == 1:
            ranges[tensor] = ranges[node.outputs[0]]


def bounds(node: Node) -> tuple[float, float]:
    """What a Relu or Clip lets through; infinite where it doesn't bound, or by what isn't constant."""
    if node.op == "Relu":
        return 0.0, np.inf
    low, high = (fixed_value(node.input(i)) for i in (1, 2))
    return (-np.inf if low is None else float(low)), (np.inf if high is None else float(high))
