"""The Relu that a QuantizeLinear does by the way, written out.

    Conv → Q(zero point = smallest integer) → DQ      →      Conv → Relu → Q → DQ

Tools that quantize to asymmetric integers drop a Relu, because integers that begin at 0 cut off the rest anyway. With
symmetric integers, or none, nothing would: the function would change. Every engine fuses the Relu again.
"""

from __future__ import annotations

import numpy as np

from graphopt.analysis.legality.grid import Grid
from graphopt.analysis.legality.skeleton import Skeleton
from graphopt.ir import Node, Tensor, Variable
from graphopt.ir.ops import RESHAPES, is_never_negative
from graphopt.pipeline import Context

# Not negative when no operand is.
_MONOTONE = RESHAPES | {
    *("Add", "AveragePool", "Concat", "DepthToSpace", "Expand", "Gather", "GlobalAveragePool", "GlobalMaxPool"),
    *("Identity", "Max", "MaxPool", "Min", "Mul", "ReduceMax", "ReduceMean", "Slice", "SpaceToDepth", "Split", "Sum"),
    "Transpose",
}
_MOVES = RESHAPES | {"Identity", "Slice", "Transpose"}
_SIX = 6.0


def restore_clamps(found: Skeleton, ctx: Context) -> None:
    """Put a Relu (or the Clip of a Relu6) wherever a pair cut off negative values that its input may have."""
    positive: set[Tensor] = set()
    moved = set(found.graph.inputs)
    for node in list(found.graph.nodes):
        for tensor in node.present_outputs():
            if is_never_negative(tensor) or _stays_positive(node, positive):
                positive.add(tensor)
            elif node.is_op(*_MOVES) and node.inputs[0] in moved:
                moved.add(tensor)  # an input of the model: nothing before it could have been dropped
            elif (grid := _cutting_grid(found, tensor)) is not None:
                positive.add(_clamp(found, ctx, node, tensor, grid))


def _stays_positive(node: Node, positive: set[Tensor]) -> bool:
    if not node.is_op(*_MONOTONE):
        return False
    operands = [t for _, t in node.present_inputs() if t.dtype == np.dtype(np.float32)]
    return bool(operands) and all(t in positive or is_never_negative(t) for t in operands)


def _cutting_grid(found: Skeleton, tensor: Tensor) -> Grid | None:
    """The grid that begins at 0, when that is how every reader in integers sees the tensor."""
    written = found.writes.get(tensor, [])
    return written[0] if written and all(_starts_at_zero(g) for g in written) else None


def _starts_at_zero(grid: Grid) -> bool:
    covered = grid.range()
    return covered is not None and float(covered.low) == 0.0 < float(covered.high)


def _clamp(found: Skeleton, ctx: Context, node: Node, tensor: Variable, grid: Grid) -> Tensor:
    graph = found.graph
    uses = [(n, i) for n, i in graph.uses(tensor) if found.read(n, i)]
    outputs = [k for k, t in enumerate(graph.outputs) if t is tensor and k in found.outputs]
    covered = grid.range()
    assert covered is not None
    assert grid.scale is not None
    clamped = graph.variable(f"{tensor.name}_clamped", tensor.dtype, tensor.shape)
    inputs: list[Tensor] = [tensor]
    # The same integers cut off at the top; that is an operator's doing only where it is a Relu6's.
    is_six = abs(float(covered.high) - _SIX) <= float(grid.scale.max()) / 2
    if is_six:
        inputs += [
            graph.constant(np.asarray(v, np.float32), f"{tensor.name}_{k}") for k, v in (("low", 0), ("high", _SIX))
        ]
    clamp = graph.add_node("Clip" if is_six else "Relu", inputs, [clamped])
    kept = [use for use in graph.uses(tensor) if use not in uses and use[0] is not clamp]
    if outputs:
        graph.replace_uses(tensor, clamped)
        graph.set_input(clamp, 0, tensor)
        for reader, index in kept:
            graph.set_input(reader, index, tensor)
    else:
        for reader, index in uses:
            graph.set_input(reader, index, clamped)
    found.writes[clamped] = found.writes.pop(tensor)
    ctx.remarks.applied(
        node, f"its {clamp.op}, which the integers of '{tensor.name}' did by ending at 0, is written out"
    )
    return clamped
