"""The float model inside a Q/DQ model, and on which grid each of its values is read.

    x → Q → DQ → Conv(·, DQ(W_q), DQ(b_q)) → y      becomes      Conv(x, W, b) → y,  x read on grid (Q, DQ), W on (DQ) …

Placement rules are then asked of the float model, as `plan-quantization` does, and compared with what is there. What
isn't a plain pair stays where it is: DequantizeLinear of integers that another operator computes or that come into
the model, scales that aren't constants, and everything in nested graphs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.legality.grid import Grid, constant_value, read_grid
from graphopt.ir import Constant, Graph, Node, Tensor, Variable
from graphopt.ir.block_weights import is_block_weight

NARROW_FLOATS = frozenset({"float16", "bfloat16"})

Use = tuple[str, int]
"""(node name, input index)."""


@dataclass
class Skeleton:
    """What `strip` took out of `graph`.

    Attributes:
        graph: the float model. Node names are those of the Q/DQ model.
        reads: use → the nodes between the float tensor and it, in order: Q, DQ, or more when pairs follow each other.
        writes: float tensor → the QuantizeLinear nodes that read it.
        stored: constant that was dequantized → its integers as the file holds them.
        outputs: position of the graph output → the grids it is read on.
        narrow: how many nodes were left alone because their real values are float16 or bfloat16.
    """

    graph: Graph
    reads: dict[Use, tuple[Grid, ...]] = field(default_factory=dict[Use, tuple[Grid, ...]])
    writes: dict[Tensor, list[Grid]] = field(default_factory=dict[Tensor, list[Grid]])
    stored: dict[Tensor, NDArray[Any]] = field(default_factory=dict[Tensor, NDArray[Any]])
    outputs: dict[int, tuple[Grid, ...]] = field(default_factory=dict[int, tuple[Grid, ...]])
    narrow: int = 0

    def read(self, node: Node, index: int | None) -> tuple[Grid, ...]:
        """The grids between input `index` of `node` and its float tensor; () where the values are float."""
        return () if index is None else self.reads.get((node.name, index), ())


def strip(graph: Graph, *, exact: bool = False) -> Skeleton:
    """Take the Q/DQ pairs out of the main graph, in place. Linear in the number of nodes.

    With `exact`, a pair whose two nodes disagree about the grid stays: it multiplies by the quotient of its scales. So
    does one of narrow floats.
    """
    found = Skeleton(graph)
    chains: dict[Tensor, tuple[Tensor, tuple[Grid, ...]]] = {}
    pairs = [n for n in graph.nodes if n.is_op("QuantizeLinear", "DequantizeLinear") and n.input(0) is not None]
    if exact:
        narrow = {n for n in pairs if str(_real(n).dtype) in NARROW_FLOATS}
        pairs, found.narrow = [n for n in pairs if n not in narrow], len(narrow)
    for node in pairs:
        data, grid = node.inputs[0], read_grid(node)
        if is_block_weight(node):
            if not exact:
                _open_blocks(found, node, grid)
            continue
        root, before = chains.get(data, (data, ()))
        if node.op == "QuantizeLinear":
            if not before:
                root = _initializer(graph, root)
                found.writes.setdefault(root, []).append(grid)
            if grid.scale is not None:
                chains[node.outputs[0]] = (root, (*before, grid))
        elif before:
            if grid.scale is not None and not (exact and not grid.same_as(before[-1])):
                chains[node.outputs[0]] = (root, (*before, grid))
        elif (stored := _dequantized(graph, node, grid)) is not None:
            constant, integers = stored
            found.stored[constant] = integers
            chains[node.outputs[0]] = (constant, (grid,))
    # Only whole pairs are taken out: the result of a lone QuantizeLinear is integers.
    for node in pairs:
        if node.op == "DequantizeLinear" and node.outputs[0] in chains:
            _bypass(found, node.outputs[0], *chains[node.outputs[0]])
    _note_kept(found, pairs)
    graph.remove_unused(reversed(pairs))
    graph.sort()
    _fold_transposes(found)
    return found


def _open_blocks(found: Skeleton, node: Node, grid: Grid) -> None:
    """Put float values in the place of a weight in blocks: its layer computes in float."""
    graph, integers = found.graph, constant_value(node.input(0))
    size = int(node.attr("block_size", 0))
    fits = integers is not None and grid.axis is not None and grid.axis < integers.ndim
    if not fits or integers is None or grid.axis is None or grid.scale is None or grid.zero_point is None:
        return
    length = integers.shape[grid.axis]
    if grid.scale.ndim != integers.ndim or grid.scale.shape[grid.axis] * size < length:
        return
    inside = [k // size for k in range(length)]
    scale, zero_point = (np.take(v, inside, grid.axis) for v in (grid.scale, grid.zero_point))
    values = (integers.astype(np.float64) - zero_point) * scale
    constant = graph.constant(values.astype(np.float32), node.outputs[0].name)
    for reader, index in graph.uses(node.outputs[0]):
        found.reads[(reader.name, index)] = ()
        graph.set_input(reader, index, constant)


def _real(node: Node) -> Tensor:
    """The tensor of real values that a QuantizeLinear reads or a DequantizeLinear writes."""
    return node.inputs[0] if node.op == "QuantizeLinear" else node.outputs[0]


def _initializer(graph: Graph, tensor: Tensor) -> Tensor:
    """The tensor, or an initializer in place of what a Constant node makes."""
    value = None if isinstance(tensor, Constant) else constant_value(tensor)
    return tensor if value is None else graph.constant(value, tensor.name)


def _bypass(found: Skeleton, dequantized: Variable, root: Tensor, grids: tuple[Grid, ...]) -> None:
    graph = found.graph
    for position, output in enumerate(graph.outputs):
        if output is dequantized and graph.can_replace_uses(dequantized, root):
            found.outputs[position] = grids
    for node, index in graph.uses(dequantized):
        if node.op == "QuantizeLinear" and node.is_standard and node.scope is graph:
            continue  # a longer chain goes on behind it
        found.reads[(node.name, index)] = grids
        graph.set_input(node, index, root)
    if graph.is_output(dequantized):
        graph.replace_uses(dequantized, root)


def _note_kept(found: Skeleton, pairs: list[Node]) -> None:
    """Uses of what stays: integers from elsewhere, dequantized."""
    for node in pairs:
        if node.op != "DequantizeLinear" or not node.outputs[0].outputs:
            continue
        grid = read_grid(node)
        for reader, index in found.graph.uses(node.outputs[0]):
            if not reader.is_op("QuantizeLinear"):
                found.reads.setdefault((reader.name, index), (grid,))


def _dequantized(graph: Graph, node: Node, grid: Grid) -> tuple[Constant, NDArray[Any]] | None:
    """The float constant that a DequantizeLinear of stored integers makes, and the integers."""
    integers = constant_value(node.input(0))
    if integers is None or grid.scale is None or grid.zero_point is None or grid.is_block:
        return None
    scale, zero_point = grid.scale, grid.zero_point
    if grid.axis is not None:
        shape = [1] * integers.ndim
        if not 0 <= grid.axis < integers.ndim or scale.size != integers.shape[grid.axis]:
            return None
        shape[grid.axis] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    elif scale.size != 1:
        return None
    else:
        scale, zero_point = scale.reshape(()), zero_point.reshape(())
    values = (integers.astype(np.float64) - zero_point) * scale
    with np.errstate(over="ignore"):
        constant = graph.constant(values.astype(np.float32), node.outputs[0].name)
    return constant, integers


def _fold_transposes(found: Skeleton) -> None:
    """DQ(W_q) → Transpose → MatMul, as PyTorch exports a Linear: the weight is a constant all the same."""
    graph = found.graph
    for node in list(graph.nodes):
        if not node.is_op("Transpose") or not isinstance(node.inputs[0], Constant):
            continue
        grids = found.reads.get((node.name, 0))
        constant = node.inputs[0]
        if grids is None or graph.is_output(node.outputs[0]):
            continue
        perm = list(node.attr("perm") or reversed(range(len(constant.shape))))
        moved = graph.constant(np.ascontiguousarray(constant.values.transpose(perm)), node.outputs[0].name)
        if constant in found.stored:
            found.stored[moved] = found.stored[constant].transpose(perm)
        along = tuple(_permuted(grid, perm) for grid in grids)
        for reader, index in graph.uses(node.outputs[0]):
            found.reads[(reader.name, index)] = along
        graph.replace_uses(node.outputs[0], moved)
        graph.remove(node)


def _permuted(grid: Grid, perm: list[int]) -> Grid:
    axis = None if grid.axis is None else perm.index(grid.axis)
    return replace(grid, axis=axis)
