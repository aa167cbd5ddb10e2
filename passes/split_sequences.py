"""A sequence that is only taken apart again becomes a Split, which every engine has.

    s = SplitToSequence(x, [2, 3]);  a = SequenceAt(s, 0);  b = SequenceAt(s, 1)      →      a, b = Split(x, [2, 3])

torch's exporter writes chunk, split and unbind so where its own optimizer doesn't run. A size for all parts becomes
their sizes; with `keepdims = 0` a Squeeze follows. Declines a sequence that something else reads (a Loop, the model's
caller), positions that aren't constants, and parts whose number depends on a size that is open.

Source: ONNX operator specification, SplitToSequence-11, SequenceAt-11, Split-13.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Graph, Node, Tensor, fixed_value
from graphopt.ir.elements import Dim
from graphopt.pipeline import Context, Pass


@dataclass(frozen=True)
class SplitSequences(Pass):
    """SplitToSequence and SequenceAt → Split."""

    name: ClassVar[str] = "split-sequences"
    summary: ClassVar[str] = "a sequence that is only taken apart again becomes a Split"
    lossless: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: Context) -> None:
        """Visit each SplitToSequence."""
        if graph.opset < 13:
            return
        for scope in graph.walk():
            for node in scope.live_nodes():
                if node.is_op("SplitToSequence"):
                    _split(scope, node, ctx)


def _split(graph: Graph, node: Node, ctx: Context) -> None:
    data, sequence, axis = node.inputs[0], node.outputs[0], node.attr("axis", 0)
    readers = graph.consumers(sequence)
    if graph.is_output(sequence) or any(not r.is_op("SequenceAt") or r.scope is not graph for r in readers):
        ctx.remarks.declined(node, f"the sequence '{sequence.name}' itself is used")
        return
    sizes = _sizes(node, axis)
    positions = [_position(reader, len(sizes or ())) for reader in readers]
    if sizes is None or None in positions:
        ctx.remarks.declined(node, "how many parts it makes, or which of them are read, isn't a constant")
        return
    parts = [
        graph.variable(f"{sequence.name}_{i}", data.dtype, _part_shape(data, axis, size))
        for i, size in enumerate(sizes)
    ]
    given = graph.constant(np.array(sizes, np.int64), f"{sequence.name}_sizes")
    graph.add_node("Split", [data, given], parts, {"axis": axis}, hint=node.name)
    for reader, position in zip(readers, positions, strict=True):
        result = reader.outputs[0]
        reader.outputs[0] = graph.variable_like(result, f"{result.name}_unused")
        operands: list[Tensor] = [parts[position or 0]]
        if _squeezes(node):
            operands.append(graph.constant(np.array([axis], np.int64), f"{result.name}_axes"))
        graph.add_node("Squeeze" if _squeezes(node) else "Identity", operands, [result], hint=reader.name)
        graph.remove(reader)
    graph.remove(node)
    ctx.remarks.applied(node, f"a sequence of {len(sizes)} became a Split")


def _squeezes(node: Node) -> bool:
    """Whether the parts lose the axis: only where no sizes are given, so that each is 1."""
    return node.input(1) is None and node.attr("keepdims", 1) == 0


def _sizes(node: Node, axis: int) -> list[int] | None:
    """The sizes of the parts; None where they aren't constants."""
    given = node.input(1)
    value = None if given is None else fixed_value(given)
    if value is not None and value.ndim == 1:
        return [int(size) for size in value]
    shape = node.inputs[0].shape
    total = None if shape is None else shape[axis]
    if not isinstance(total, int) or (given is not None and value is None):
        return None
    each = 1 if value is None else int(value)
    return [min(each, total - start) for start in range(0, total, each)]


def _position(reader: Node, count: int) -> int | None:
    """Which of `count` parts it reads, from the front; None where that isn't a constant, or there is none such."""
    value = fixed_value(reader.inputs[1])
    position = None if value is None else int(value) + (count if value < 0 else 0)
    return position if position is not None and 0 <= position < count else None


def _part_shape(data: Tensor, axis: int, size: int) -> list[Dim] | None:
    if data.shape is None:
        return None
    shape = list(data.shape)
    shape[axis] = size
    return shape
