"""What two operators in a row come to: op of the second → merge(graph, node, ctx).

A merge returns the tensor that the node gives back after all (the pair undoes itself), or None. Where the pair comes to
one operator, the second is made that one and the first goes, if nothing else reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from graphopt.ir import Graph, Node, Tensor, fixed_value
from graphopt.ir.dtypes import numpy_dtype
from graphopt.ir.operands import int_list, same_shape
from graphopt.ir.ops import RESHAPES
from graphopt.passes.remove_dead import sweep
from graphopt.pipeline import Context

Merge: TypeAlias = Callable[[Graph, Node, Context], Tensor | None]

_LONGEST_CHAIN = 8


def _before(node: Node, *ops: str) -> Node | None:
    """The node that makes the first input, if it is one of `ops`."""
    if not node.inputs or not node.inputs[0].inputs:
        return None
    producer = node.inputs[0].inputs[0]
    return producer if producer.is_op(*ops) else None


def _transposes(graph: Graph, node: Node, ctx: Context) -> Tensor | None:
    first = _before(node, "Transpose")
    if first is None:
        return None
    inner, outer = first.attr("perm"), node.attr("perm")
    rank = len(inner or outer or first.inputs[0].shape or ())
    inner, outer = (perm or list(reversed(range(rank))) for perm in (inner, outer))
    if rank == 0 or len(inner) != len(outer):
        return None
    both = [inner[axis] for axis in outer]
    if both == sorted(both):
        return first.inputs[0]
    if graph.sole_consumer(first.outputs[0]) is node:
        graph.set_attr(node, "perm", both)
        _skip(graph, node, first, ctx)
    return None


def _casts(graph: Graph, node: Node, ctx: Context) -> Tensor | None:
    """x: A → B → C is A → C when B holds every value of A."""
    first = _before(node, "Cast")
    if first is None or not isinstance(first.attr("to"), int) or not isinstance(node.attr("to"), int):
        return None
    source = first.inputs[0].dtype
    if source is None or not _holds_all(np.dtype(source), numpy_dtype(first.attr("to"))):
        return None
    if numpy_dtype(node.attr("to")) == source:
        return first.inputs[0]
    if graph.sole_consumer(first.outputs[0]) is node:
        _skip(graph, node, first, ctx)
    return None


def _holds_all(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    if source.kind not in "biuf" or target.kind not in "biuf":
        return False
    if source.kind in "iu" and target.kind == "f":
        # numpy calls int64 → float64 safe; it isn't exact.
        bits = source.itemsize * 8 - (source.kind == "i")
        return bits <= np.finfo(target).nmant + 1
    return np.can_cast(source, target, "safe")


def _reshapes(graph: Graph, node: Node, ctx: Context) -> Tensor | None:
    first = _before(node, *RESHAPES)
    if first is None:
        return None
    start = _same_shape_before(node)
    if start is not None:
        return start
    if {first.op, node.op} == {"Squeeze", "Unsqueeze"}:
        # The axes of both count in the longer shape of the two, so equal lists name equal axes.
        axes = int_list(first, "axes", 1)
        if axes and sorted(axes) == sorted(int_list(node, "axes", 1) or []):
            return first.inputs[0]
    if node.op == "Reshape" and graph.sole_consumer(first.outputs[0]) is node and _frees_target(graph, node, first):
        _skip(graph, node, first, ctx)
    return None


def _same_shape_before(node: Node) -> Tensor | None:
    """The tensor furthest up a chain of reshapes that has the shape of the node's output."""
    shape, found = node.outputs[0].shape, None
    for _ in range(_LONGEST_CHAIN):
        if not node.is_op(*RESHAPES):
            break
        source = node.inputs[0]
        if same_shape(source.shape, shape):
            found = source
        if not source.inputs:
            break
        node = source.inputs[0]
    return found


def _frees_target(graph: Graph, node: Node, first: Node) -> bool:
    """Whether the Reshape means the same on the input of `first`; zeros (copy an axis) are written out for that."""
    target = fixed_value(node.input(1))
    if target is None:
        return "shape" in node.attrs and 0 not in node.attrs["shape"]
    if node.attr("allowzero", 0) or target.all():
        return True
    between, start = first.outputs[0].shape or (), first.inputs[0].shape or ()
    written: list[int] = []
    for axis, dim in enumerate(int(d) for d in target):
        copied = between[axis] if axis < len(between) else None
        if dim != 0 or (axis < len(start) and copied is not None and start[axis] == copied):
            written.append(dim)
        elif isinstance(copied, int) and copied > 0:
            written.append(copied)
        else:
            return False
    if written != target.tolist():
        graph.set_input(node, 1, graph.constant(np.array(written, np.int64), f"{node.name}_shape"))
    return True


def _skip(graph: Graph, node: Node, first: Node, ctx: Context) -> None:
    """Let `node` read what `first` reads; it does the work of both."""
    graph.set_input(node, 0, first.inputs[0])
    ctx.remarks.applied(node, f"it does the work of {first} too")
    sweep([first], ctx)


MERGES: dict[str, Merge] = {
    "Transpose": _transposes,
    "Cast": _casts,
    **dict.fromkeys(sorted(RESHAPES), _reshapes),
}
