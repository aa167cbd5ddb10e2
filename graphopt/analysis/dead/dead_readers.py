"""How operations read one axis of an activation: element by element, or summed over.

A rule about removing channels may let an element through and sum over it at once (LpNormalization), so what is handed
on element by element is listed here.
"""

from __future__ import annotations

from graphopt.analysis.coupling.groups import Slot
from graphopt.ir import Node
from graphopt.ir.operands import int_list, is_given, normalized_axes
from graphopt.ir.ops import ELEMENTWISE_BINARY, ELEMENTWISE_UNARY, LINEAR, RESHAPES

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

_PASSES_ON = (
    RESHAPES
    | ELEMENTWISE_UNARY
    | ELEMENTWISE_BINARY
    | {f"Reduce{kind}" for kind in _REDUCTIONS}
    | frozenset(LINEAR)
    | {
        *("ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "CumSum", "DepthToSpace"),
        *("DequantizeLinear", "Dropout", "Expand", "Gather", "GlobalAveragePool", "GlobalMaxPool"),
        *("GroupNormalization", "InstanceNormalization", "LayerNormalization", "LogSoftmax", "LpPool", "MaxPool"),
        *("Pad", "QuantizeLinear", "RMSNormalization", "Resize", "Slice", "Softmax", "SpaceToDepth", "Split", "Tile"),
        *("TopK", "Transpose", "Upsample"),
    }
)


def passes_on(node: Node) -> bool:
    """Whether each element along an axis that it doesn't sum over reaches only what goes with it along that axis.

    An axis that is normalized or compared over is frozen by `coupling`, and needs no answer here.
    """
    return node.is_standard and node.op in _PASSES_ON


def leaves_out(node: Node) -> bool:
    """Whether the node takes parts of an axis, of stated sizes, so that what is in no result isn't read."""
    return node.is_op("Gather", "Slice", "Split") and all(
        tensor.shape is not None and sum(not isinstance(d, int) for d in tensor.shape) <= _unstated(node)
        for tensor in node.present_outputs()
    )


def _unstated(node: Node) -> int:
    """Axes of the operand whose size the graph doesn't say."""
    return sum(not isinstance(d, int) for d in node.inputs[0].shape or ())


def is_summed(node: Node, index: int, axis: int) -> bool:
    """Whether a node of `passes_on` sums over this axis of input `index`, rather than hand its elements on."""
    tensor = node.inputs[index]
    rank = len(tensor.shape or ())
    if node.is_op("MatMul"):
        return axis == _inner_axis(index, rank)
    if node.is_op("Gemm"):
        return index < 2 and axis == (1 - index if not node.attr("transB" if index else "transA", 0) else index)
    if node.is_op("Conv", "ConvTranspose"):
        return axis != 0 or index != 0
    if not node.op.startswith("Reduce") and not node.is_op("CumSum"):
        return False
    axes = int_list(node, "axes", 1)
    if axes is None:
        return is_given(node, "axes", 1) or not node.attr("noop_with_empty_axes", 0)
    found = normalized_axes(axes, rank)
    return found is None or axis in found


def summed_partner(node: Node, index: int) -> Slot | None:
    """What a MatMul multiplies the axis that it sums over with, element by element."""
    if not node.is_op("MatMul") or index > 1:
        return None
    other = node.inputs[1 - index]
    axis = _inner_axis(1 - index, len(other.shape or ()))
    return Slot(other, axis) if other.shape and isinstance(other.shape[axis], int) else None


def _inner_axis(index: int, rank: int) -> int:
    return rank - 1 if index == 0 else max(rank - 2, 0)
