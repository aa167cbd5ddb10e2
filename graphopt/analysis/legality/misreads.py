"""Rules about what an engine computes wrongly, or refuses, although every pair there is right by itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphopt.analysis.legality.grid import EIGHT_BITS, Grid
from graphopt.analysis.legality.scene import Found, Scene
from graphopt.ir import Constant, Node, Tensor
from graphopt.ir.conditions import counts_padding
from graphopt.ir.ops import RESHAPES

# What integers go through on their way from a Concat to a convolution without being computed with.
_CARRIES = RESHAPES | {
    *("AveragePool", "Clip", "DepthToSpace", "Identity", "MaxPool", "Relu", "Resize", "Slice", "SpaceToDepth"),
    *("Split", "Transpose"),
}


def check_joins(scene: Scene) -> Iterator[Found]:
    """Every Concat of signed integers, on either side of it, whose values a convolution over all channels reads."""
    for node in scene.inner.nodes:
        if not node.is_op("Concat"):
            continue
        operands = {t: scene.data_grid(node, i) for i, t in node.present_inputs()}
        in_integers = all(grid is not None and grid.dtype in EIGHT_BITS for grid in operands.values())
        signed = next((t for t, grid in operands.items() if in_integers and _is_signed(grid)), None)
        convolution = _convolution(scene, node.outputs[0], signed is not None)
        if convolution is not None:
            joined = node.outputs[0] if signed is None else signed
            text = f"'{joined.name}' is int8, and {convolution} reads what is joined"
            yield Found("signed-concat", node, text, joined.name, (convolution,))


def _convolution(scene: Scene, joined: Tensor, signed: bool) -> Node | None:
    """The first integer convolution of one group that reads `joined` as int8, whatever only moves it between them.

    `signed`: whether it is int8 before any pair behind the Concat. A pair of uint8 on the way makes it right.
    """
    pending, seen = [(joined, signed)], set[tuple[Tensor, bool]]()
    while pending:
        tensor, before = pending.pop(0)
        if (tensor, before) in seen:
            continue
        seen.add((tensor, before))
        for reader, index in scene.inner.uses(tensor):
            grid = scene.data_grid(reader, index)
            now = before if grid is None else _is_signed(grid)
            if index == 0 and now and _is_integer_convolution(scene, reader):
                return reader
            if index == 0 and reader.is_op(*_CARRIES):
                pending += [(t, now) for t in reader.present_outputs()]
    return None


def _is_integer_convolution(scene: Scene, node: Node) -> bool:
    return node.is_op("Conv") and node.attr("group", 1) == 1 and scene.data_grid(node, 1) is not None


def _is_signed(grid: Grid | None) -> bool:
    return grid is not None and grid.dtype == np.dtype(np.int8)


def check_counted_pads(scene: Scene) -> Iterator[Found]:
    """Averages that count padding, of integers in which 0 isn't 0."""
    for node in scene.inner.nodes:
        grid = scene.in_integers(node, 0) if node.is_op("AveragePool") and counts_padding(node) else None
        if grid is not None and grid.zero_point is not None and grid.zero_point.any():
            text = f"it counts padding, and its input '{node.inputs[0].name}' is {grid}"
            yield Found("counted-pads", node, text, node.inputs[0].name)


def check_constants(scene: Scene) -> Iterator[Found]:
    """Sums and products of integers and a float constant that QuantizeLinear reads; a stored one is no trouble."""
    for node in scene.inner.nodes:
        grids = [(t, scene.skeleton.read(node, i)) for i, t in node.present_inputs()]
        if not node.is_op("Add", "Mul") or not all(read for _, read in grids):
            continue
        for tensor, read in grids:
            if isinstance(tensor, Constant) and read[0].node.op == "QuantizeLinear":
                text = f"its constant '{tensor.name}' is float, with a pair behind it"
                yield Found("constant-pair", node, text, tensor.name)
                break
