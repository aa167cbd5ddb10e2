"""How channels go through operations that treat them one by one, normalize, reduce and pool over some axes.

Add, Mul, Where, …             each operand's axes go with the result's, but where it is broadcast
BatchNormalization             axis 1 with all parameters
Softmax, ReduceMean, …         the axis that is normalized or counted over stays whole
ReduceSum, ReduceL2            what is summed over may go: it reads as if it were zero

Batch axes are no different: they go from the operand to the result.
"""

from __future__ import annotations

from graphopt.analysis.coupling.links import (
    Links,
    axes_or_none,
    broadcast,
    every,
    front_axis,
)
from graphopt.ir import Node, Tensor
from graphopt.ir.operands import int_list, is_given

ONE_AXIS_NORMS = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1}
"""Default axis since opset 13; before, 1, and everything behind the axis is normalized together."""

SUMS = frozenset({"ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2"})
"""Reductions for which leaving an element out is the same as setting it to zero."""


def elementwise(node: Node, links: Links) -> None:
    """All operands broadcast to the outputs; operands without axes don't matter."""
    y = node.outputs[0]
    for _, operand in node.present_inputs():
        broadcast(links, operand, y)
    for other in links.results()[1:]:  # the mask of Dropout
        broadcast(links, other, y)


def first_operand(node: Node, links: Links) -> None:
    """Operations whose other operands say nothing about axes: Cast, Clip, Dropout, CumSum, LpNormalization."""
    for output in links.results():
        broadcast(links, node.inputs[0], output)
    if node.op == "CastLike":
        for axis in range(links.rank(node.inputs[1])):
            links.free(node.inputs[1], axis)


def channel_norm(node: Node, links: Links) -> None:
    """BatchNormalization and InstanceNormalization: parameters along axis 1.

    Until opset 8 BatchNormalization could have parameters for every place, too (`spatial` 0).
    """
    x, y = node.inputs[0], node.outputs[0]
    is_by_channel = node.op == "BatchNormalization" and node.attr("spatial", 1)
    over = () if is_by_channel else range(2, links.rank(x))
    _but(links, x, y, over, f"{node.op} normalizes over it")
    for tensor in (*node.inputs[1:], *links.results()[1:]):
        links.same(tensor, 0, y, 1)


def group_norm(node: Node, links: Links) -> None:
    """Whole groups go; `num_groups` shrinks. Scale and bias are per group before opset 21, per channel since."""
    x, y = node.inputs[0], node.outputs[0]
    _but(links, x, y, range(2, links.rank(x)), "GroupNormalization normalizes over it")
    channels, groups = links.size(y, 1), int(node.attr("num_groups", 0))
    if channels is None or groups < 1 or channels % groups:
        links.hold(y, 1, "GroupNormalization normalizes over groups of it")
        return
    size = channels // groups
    links.tie(y, 1, every(channels), y, 1, every(channels) // size * size)
    for parameter in node.inputs[1:]:
        if links.size(parameter, 0) == channels:
            links.same(parameter, 0, y, 1)
        elif links.size(parameter, 0) == groups:
            links.tie(parameter, 0, every(groups), y, 1, every(groups) * size)


def layer_norm(node: Node, links: Links) -> None:
    """LayerNormalization and RMSNormalization: all axes from `axis` on are counted over."""
    x, y = node.inputs[0], node.outputs[0]
    axis, reason = front_axis(node, "axis", -1, links.rank(x)), f"{node.op} normalizes over it"
    _but(links, x, y, range(axis, links.rank(x)), reason)
    for parameter in (t for i, t in node.present_inputs() if i):
        for own in range(links.rank(parameter)):
            if links.size(parameter, own) != 1:
                links.same(parameter, own, y, own + links.rank(y) - links.rank(parameter))
    for statistic in links.results()[1:]:
        for leading in range(axis):
            links.same(statistic, leading, y, leading)


def softmax(node: Node, links: Links) -> None:
    """Softmax, LogSoftmax and Hardmax."""
    x, y = node.inputs[0], node.outputs[0]
    since_13 = node.scope is None or node.scope.opset >= 13
    axis = front_axis(node, "axis", -1 if since_13 else 1, links.rank(x))
    _but(links, x, y, [axis] if since_13 else range(axis, links.rank(x)), f"{node.op} normalizes over it")


def local_norm(node: Node, links: Links) -> None:
    """LRN: a window over neighbouring channels."""
    _but(links, node.inputs[0], node.outputs[0], [1], "LRN normalizes over windows of it")


def mean_variance(node: Node, links: Links) -> None:
    """MeanVarianceNormalization."""
    x = node.inputs[0]
    axes = axes_or_none([int(a) for a in node.attr("axes", [0, 2, 3])], links.rank(x))
    over = range(links.rank(x)) if axes is None else axes
    _but(links, x, node.outputs[0], over, "MeanVarianceNormalization normalizes over it")


def pool(node: Node, links: Links) -> None:
    """Pools over windows and over everything; indices of MaxPool count all elements of the operand."""
    x, y = node.inputs[0], node.outputs[0]
    over = f"{node.op} takes it together" if node.op.startswith("Global") else f"{node.op} moves a window over it"
    for output in links.results():
        for axis in (0, 1):
            links.same(x, axis, output, axis)
            if output is not y:
                links.hold(output, axis, "the indices of MaxPool count over it")
    for tensor in (x, y):
        for axis in range(2, links.rank(tensor)):
            links.hold(tensor, axis, over)


def channels_only(node: Node, links: Links) -> None:
    """RoiAlign, MaxRoiPool, GridSample: axis 1 of the data goes through, everything else is about places."""
    links.same(node.inputs[0], 1, node.outputs[0], 1)


def one_axis(node: Node, links: Links) -> None:
    """ArgMax, ArgMin and TopK: elements are compared along one axis; the others go through."""
    x = node.inputs[0]
    axis = front_axis(node, "axis", -1 if node.op == "TopK" else 0, links.rank(x))
    keeps = node.op == "TopK" or bool(node.attr("keepdims", 1))
    for output in links.results():
        _reduced(links, x, output, [axis], keeps)
    links.hold(x, axis, f"{node.op} compares along it")


def reduce(node: Node, links: Links) -> None:
    """Reduce*, with axes as an attribute or an operand."""
    x, y = node.inputs[0], node.outputs[0]
    rank = links.rank(x)
    axes = axes_or_none(int_list(node, "axes", 1), rank)
    if not is_given(node, "axes", 1) or axes == []:
        axes = [] if node.attr("noop_with_empty_axes", 0) else list(range(rank))
    if axes is None:
        return
    _reduced(links, x, y, axes, bool(node.attr("keepdims", 1)))
    for axis in axes:
        if node.op in SUMS:
            links.free(x, axis)
        else:
            links.hold(x, axis, f"{node.op} takes it together")


def _reduced(links: Links, x: Tensor, y: Tensor, axes: list[int], keeps: bool) -> None:
    kept = [axis for axis in range(links.rank(x)) if axis not in axes]
    for place, axis in enumerate(kept):
        links.same(x, axis, y, axis if keeps else place)


def _but(links: Links, x: Tensor, y: Tensor, over: range | list[int] | tuple[()], reason: str) -> None:
    """All axes go through; those in `over` stay whole."""
    for axis in range(links.rank(x)):
        links.same(x, axis, y, axis)
        if axis in over:
            links.hold(x, axis, reason)


def quantize(node: Node, links: Links) -> None:
    """QuantizeLinear and DequantizeLinear: a scale and a zero point for everything, or along one axis."""
    x, y = node.inputs[0], node.outputs[0]
    broadcast(links, x, y)
    if node.attr("block_size", 0):
        return
    for parameter in (t for i, t in node.present_inputs() if i):
        if links.rank(parameter) == 1 and links.size(parameter, 0) != 1:
            links.same(parameter, 0, y, front_axis(node, "axis", 1, links.rank(y)))
