"""Operands that say sizes: which ones have to change once tensors are cut, and how they are changed.

    Reshape(x, [0, 64])                            →      Reshape(x, [0, 48])
    Reshape(x, Concat(Shape(x)[0], 64, H·W))       →      Reshape(x, Concat(Shape(x)[0], 48, H·W))
    scale = Sqrt(Cast(Shape(q)[3]))                →      the factor stays: what q's size was

What follows from the shapes by itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import InternalError
from graphopt.ir import Graph, Node, Tensor, Variable, is_fixed
from graphopt.passes._removal_cuts import Mend
from graphopt.passes._removal_sizes import SizeArithmetic, Sizes

Undo = list[Callable[[], object]]


@dataclass(frozen=True)
class Operand:
    """An input of a node that has to change.

    Attributes:
        wanted: what it has to be; elements that aren't known are right as they are.
        right: which elements come out as wanted by themselves.
    """

    node: Node
    index: int
    wanted: Sizes
    right: NDArray[np.bool_]


def wanted_operands(graph: Graph, sizes: SizeArithmetic, mends: Mapping[Node, Mend]) -> list[Operand]:
    """The operands that aren't right by themselves: those that rules name, and those that must not change.

    Raises:
        InternalError: one has to stay as it is, and what it is isn't known before the model runs.
    """
    told = {(node, index): wanted for node, found in mends.items() for index, wanted in found.operands.items()}
    for node, index in sizes.leaves():
        if (node, index) not in told:
            before = sizes.before(node.inputs[index])
            assert before is not None  # it is a leaf because its value was followed
            told[node, index] = before
    for tensor in sizes.changed_outputs():
        raise InternalError(f"the graph output '{tensor.name}' tells a size that is to change")
    found = (_operand(sizes, node, index, wanted) for (node, index), wanted in told.items())
    return [
        operand for operand in found if not operand.right.all() or operand.right.shape != operand.wanted.values.shape
    ]


def _operand(sizes: SizeArithmetic, node: Node, index: int, wanted: Sizes) -> Operand:
    tensor = node.input(index)
    after = None if tensor is None else sizes.after(tensor)
    if after is None and tensor is not None and is_fixed(tensor):
        after = Sizes.of(tensor.values)
    same = np.zeros(wanted.values.shape, dtype=bool)
    if after is not None and after.values.shape == same.shape:
        same = after.known & (after.values == wanted.values)
    unchanged = None if tensor is None else sizes.unchanged(tensor)
    open_ = ~wanted.known
    if open_.any() and unchanged is not None and not unchanged[open_].all():
        raise InternalError(f"input {index} of {node} changes with the channels, and isn't known before the model runs")
    # What can't be followed at all doesn't come from a shape that changes.
    return Operand(node, index, wanted, np.where(wanted.known, same, True))


def write_operand(graph: Graph, operand: Operand, undo: Undo) -> None:
    """Give the node what it has to read; a constant that others read too, or a computed value, stays for them."""
    node, index, wanted = operand.node, operand.index, operand.wanted
    tensor = node.input(index)
    if not wanted.known.all():
        assert tensor is not None  # only a computed operand is known in part
        _connect(graph, node, index, _patched(graph, tensor, operand, undo), undo)
        return
    dtype = np.dtype(np.int64) if tensor is None or tensor.dtype is None else tensor.dtype
    values = wanted.values.astype(dtype)
    if is_fixed(tensor) and graph.sole_consumer(tensor) is node and tensor.scope is node.scope:
        undo.append(partial(graph.set_values, tensor, tensor.values))
        graph.set_values(tensor, values)
        return
    scope = node.scope or graph
    hint = f"{node.name}_sizes" if tensor is None else tensor.name
    _connect(graph, node, index, scope.constant(values, hint), undo)


def _connect(graph: Graph, node: Node, index: int, tensor: Tensor, undo: Undo) -> None:
    if node.input(index) is None:
        undo.append(partial(graph.remove_input, node, index))
    else:
        undo.append(partial(graph.set_input, node, index, node.inputs[index]))
    graph.set_input(node, index, tensor)


def _patched(graph: Graph, tensor: Tensor, operand: Operand, undo: Undo) -> Tensor:
    """`tensor` with constants where it isn't right by itself."""
    if operand.wanted.values.ndim != 1 or tensor.dtype is None:
        raise InternalError(f"input {operand.index} of {operand.node} can't be mended: it isn't a list of sizes")
    parts: list[Tensor] = []
    for source, begin, end in _sources(tensor, len(operand.right)):
        if operand.right[begin:end].all():
            parts.append(source)
            continue
        runs = [(0, end - begin)] if operand.wanted.known[begin:end].all() else _runs(operand.right[begin:end])
        for first, last in runs:
            if len(runs) > 1 and operand.right[begin + first]:
                parts.append(_part(graph, source, first, last, undo))
            else:
                values = operand.wanted.values[begin + first : begin + last]
                parts.append(graph.constant(values.astype(tensor.dtype), f"{tensor.name}_cut"))
    joined = graph.variable(f"{tensor.name}_cut", tensor.dtype, (len(operand.right),))
    _add(graph, "Concat", parts, joined, {"axis": 0}, undo)
    return joined


def _sources(tensor: Tensor, length: int) -> Iterator[tuple[Tensor, int, int]]:
    """(tensor, first element, end) of what a list of sizes is put together from: itself, where it isn't a Concat."""
    node = tensor.inputs[0] if tensor.inputs else None
    lengths = [] if node is None or not node.is_op("Concat") else [_length(t) for t in node.inputs]
    known = [n for n in lengths if n is not None]
    if node is None or not known or len(known) != len(lengths) or sum(known) != length:
        yield tensor, 0, length
        return
    begin = 0
    for source, size in zip(node.inputs, known, strict=True):
        yield source, begin, begin + size
        begin += size


def _length(tensor: Tensor) -> int | None:
    size = tensor.shape[0] if tensor.shape is not None and len(tensor.shape) == 1 else None
    return size if isinstance(size, int) else None


def _runs(right: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, end) of the stretches of equal elements."""
    borders = [0, *(np.flatnonzero(np.diff(right)) + 1).tolist(), len(right)]
    return list(pairwise(borders))


def _part(graph: Graph, tensor: Tensor, first: int, end: int, undo: Undo) -> Tensor:
    part = graph.variable(f"{tensor.name}_part", tensor.dtype, (end - first,))
    bounds = {"starts": [first], "ends": [end], "axes": [0]}
    if graph.opset < 10:
        _add(graph, "Slice", [tensor], part, bounds, undo)
    else:
        operands = [graph.constant(np.array(v, dtype=np.int64), f"{part.name}_{k}") for k, v in bounds.items()]
        _add(graph, "Slice", [tensor, *operands], part, {}, undo)
    return part


def _add(
    graph: Graph, op: str, inputs: list[Tensor], output: Variable, attrs: Mapping[str, object], undo: Undo
) -> None:
    node = graph.add_node(op, inputs, [output], dict(attrs))
    undo.append(partial(graph.remove, node))
