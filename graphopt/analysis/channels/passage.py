"""Which operations a per-channel scale and shift pass through: op(s·x + t) = s'·op(x) + t', and what s' and t' are.

`hindrance` says why not; `onto_output` and `onto_input` bring the numbers to the other side. A positive scale
commutes with max and Relu; a shift with everything that averages, selects or rearranges, unless zeros are mixed in.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.analysis.channels.affine import ChannelAffine
from graphopt.ir import Graph, Node, Shape
from graphopt.ir.linear_edit import Declined
from graphopt.ir.operands import int_list, is_given, normalized_axes, parameter
from graphopt.ir.ops import RESHAPES, is_random

REARRANGES = frozenset({"Identity", "Dropout", "Transpose"}) | RESHAPES
POSITIVE_ONLY = frozenset({"Relu", "LeakyRelu", "PRelu", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin"})
NO_SHIFT = frozenset({"Relu", "LeakyRelu", "PRelu", "ReduceSum", "Mul", "Div"})
POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
REDUCES = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"})
RESIZES = frozenset({"Resize", "Upsample"})
PASSABLE = REARRANGES | POSITIVE_ONLY | NO_SHIFT | POOLS | REDUCES | RESIZES | {"Pad", "Slice", "Concat", "Add"}
"""Every operation that something passes through, under the conditions of `hindrance`."""


def hindrance(graph: Graph, node: Node, index: int, affine: ChannelAffine) -> str | None:
    """Why op(s·x + t), x being input `index`, isn't an affine function of op(x); None when it is."""
    if not node.is_op(*PASSABLE) or is_random(node, graph.opset):
        return f"{node} isn't an operation that a scale passes through"
    if index != 0 and not node.is_op("Concat", "Mul", "Add"):
        return f"it is a parameter of {node}"
    if node.op in POSITIVE_ONLY and not affine.is_positive:
        return f"a scale that isn't positive doesn't pass through {node}"
    if affine.has_shift and (node.op in NO_SHIFT or _mixes_zeros(node)):
        return f"a shift doesn't pass through {node}"
    if node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return f"{node} fills in a fixed value outside its input"
    if node.is_op("MaxPool") and len(node.present_outputs()) > 1:
        return f"the positions that {node} found are an output too"
    if node.is_op("Mul", "Div", "Add") and sum(t is node.inputs[index] for t in node.inputs) > 1:
        return f"{node} reads it twice"
    return None


def onto_output(node: Node, index: int, affine: ChannelAffine) -> ChannelAffine | Declined:
    """The numbers on the output of `node`, given those on input `index`; other inputs of a Concat keep 1 and 0."""
    if node.is_op("Concat"):
        return _concat_output(node, index, affine)
    moved = _moved(node, affine, node.inputs[index].shape, node.outputs[0].shape, forward=True)
    return moved or Declined(f"{node} doesn't keep the channels apart, or its shapes aren't known")


def onto_inputs(node: Node, affine: ChannelAffine) -> list[tuple[int, ChannelAffine]] | Declined:
    """(input, numbers on it) so that the output of `node` gets `affine`.

    A Concat needs it on all its inputs; an Add the scale on both and the shift on one.
    """
    if node.is_op("Mul", "Div"):
        return Declined(f"{node} multiplies or divides two activations")
    if node.is_op("Concat"):
        return _concat_inputs(node, affine)
    if node.is_op("Add"):
        return _addends(node, affine)
    moved = _moved(node, affine, node.inputs[0].shape, node.outputs[0].shape, forward=False)
    if moved is None:
        return Declined(f"{node} doesn't keep the channels apart, or its shapes aren't known")
    return [(0, moved)]


def _mixes_zeros(node: Node) -> bool:
    """Whether zeros (which a shift doesn't reach) take part in what the node averages or fills in."""
    if node.is_op("AveragePool"):
        # ceil_mode may add positions at the end even without pads.
        padded = node.attr("auto_pad", "NOTSET").startswith("SAME") or any(node.attr("pads", [0]))
        return bool(node.attr("count_include_pad", 0)) and (padded or bool(node.attr("ceil_mode", 0)))
    return node.is_op("Pad") and node.attr("mode", "constant") == "constant"


def _moved(
    node: Node, affine: ChannelAffine, x: Shape | None, y: Shape | None, *, forward: bool
) -> ChannelAffine | None:
    """`affine` of the input brought to the output (`forward`), or back; None when that isn't possible."""
    if node.is_op("Pad") and not _pads_with_zero_or_copies(node):
        return None
    if affine.axis is None:
        return affine
    if node.op in RESHAPES:
        return affine.reshaped(x, y) if forward else affine.reshaped(y, x)
    rank = len(x) if x is not None else None
    if node.is_op("Transpose"):
        order = node.attr("perm") or (None if rank is None else list(range(rank))[::-1])
        return None if order is None else affine.at_axis(order.index(affine.axis) if forward else order[affine.axis])
    if node.op in REDUCES:
        axis = _past_reduced(node, affine.axis, rank, forward=forward)
        return None if axis is None else affine.at_axis(axis)
    keeps = _AXIS_RULES.get(node.op, _elementwise)
    return affine if x is not None and y is not None and keeps(node, affine.axis, x, y) else None


def _elementwise(_node: Node, axis: int, x: Shape, y: Shape) -> bool:
    """The axis keeps its place and its size; no broadcasting of x."""
    return len(x) == len(y) and isinstance(x[axis], int) and x[axis] == y[axis]


def _batch_or_channel(node: Node, axis: int, x: Shape, y: Shape) -> bool:
    return axis < 2 and _elementwise(node, axis, x, y)


def _not_sliced(node: Node, axis: int, x: Shape, y: Shape) -> bool:
    starts = int_list(node, "starts", 1)
    axes = int_list(node, "axes", 3) if is_given(node, "axes", 3) else list(range(len(starts or [])))
    axes = None if axes is None or starts is None else normalized_axes(axes, len(x))
    return axes is not None and axis not in axes and _elementwise(node, axis, x, y)


def _not_padded(node: Node, axis: int, x: Shape, y: Shape) -> bool:
    # Negative pads crop: the size alone doesn't tell that nothing moved.
    pads = int_list(node, "pads", 1)
    return pads is not None and min(pads, default=0) >= 0 and _elementwise(node, axis, x, y)


_AXIS_RULES: dict[str, Callable[[Node, int, Shape, Shape], bool]] = {
    **dict.fromkeys(POOLS | RESIZES, _batch_or_channel),
    "Slice": _not_sliced,
    "Pad": _not_padded,
}


def _past_reduced(node: Node, axis: int, rank: int | None, *, forward: bool) -> int | None:
    """Where `axis` is after the reduction (`forward`), or was before it; None when it is reduced itself."""
    axes = int_list(node, "axes", 1)
    reduced = None if axes is None or rank is None else normalized_axes(axes, rank)
    if not reduced or rank is None:
        return None
    kept = [a for a in range(rank) if a not in reduced]
    if node.attr("keepdims", 1):
        return axis if axis in kept else None
    if not forward:
        return kept[axis]
    return kept.index(axis) if axis in kept else None


def _pads_with_zero_or_copies(node: Node) -> bool:
    """A scale keeps a padding of zeros, and copies of the input's own values."""
    if node.attr("mode", "constant") != "constant":
        return True
    value = parameter(node, "value", 2)
    return not value.any() if value is not None else not is_given(node, "value", 2)


def _addends(node: Node, affine: ChannelAffine) -> list[tuple[int, ChannelAffine]] | Declined:
    y = node.outputs[0].shape
    for x in node.inputs:
        if affine.axis is not None and (
            x.shape is None or y is None or not _elementwise(node, affine.axis, x.shape, y)
        ):
            return Declined(f"{node} broadcasts '{x.name}', or its shapes aren't known")
    return [(0, affine), (1, affine.only_scale())]


def _concat_axis(node: Node) -> tuple[int, list[int]] | Declined:
    """The axis joined and the size of each input along it."""
    shape = node.outputs[0].shape or node.inputs[0].shape
    if shape is None:
        return Declined(f"the shapes of {node} aren't known")
    axis = int(node.attr("axis")) % len(shape)
    sizes = [None if t.shape is None else t.shape[axis] for t in node.inputs]
    known = [s for s in sizes if isinstance(s, int)]
    return (axis, known) if len(known) == len(sizes) else Declined(f"the shapes of {node} aren't known")


def _concat_output(node: Node, index: int, affine: ChannelAffine) -> ChannelAffine | Declined:
    joined = _concat_axis(node)
    if isinstance(joined, Declined):
        return joined
    axis, sizes = joined
    own = affine.channels(sizes[index])
    if affine.axis not in (None, axis) or own is None:
        return Declined(f"{node} joins another axis than that of the channels")
    scale, shift = np.ones(sum(sizes)), np.zeros(sum(sizes))
    place = slice(sum(sizes[:index]), sum(sizes[: index + 1]))
    scale[place], shift[place] = own.scale, own.shift
    return ChannelAffine(axis, scale, shift)


def _concat_inputs(node: Node, affine: ChannelAffine) -> list[tuple[int, ChannelAffine]] | Declined:
    if affine.axis is None:
        return [(i, affine) for i in range(len(node.inputs))]
    joined = _concat_axis(node)
    if isinstance(joined, Declined):
        return joined
    axis, sizes = joined
    if affine.axis != axis:
        return [(i, affine) for i in range(len(node.inputs))]
    ends: list[int] = np.cumsum(sizes).tolist()
    return [
        (i, affine.taken(axis, np.arange(end - size, end)))
        for i, (end, size) in enumerate(zip(ends, sizes, strict=True))
    ]
