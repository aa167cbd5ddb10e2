"""Fold inference BatchNormalization into the linear operation beside it; what can't be folded becomes Mul + Add.

    y = BN(Conv(x, W, b))   →   y = Conv(x, k·W, k·b + t)        k = gamma / sqrt(var + epsilon)
    y = Conv(BN(x), W, b)   →   y = Conv(x, W·k, b + W·t)        t = beta − mean·k
    y = BN(x)               →   y = x·k + t                      k, t shaped [C, 1, …] to the rank of x

Conv, ConvTranspose, Gemm and MatMul (with the Add that holds its bias), with groups, any number of spatial axes. Into
the operations after it only where all that read y can take it; a shift isn't exact where a Conv pads with zeros.

Declines: training mode (training_mode=1, or running statistics that are read), spatial=0, parameters that aren't fixed
initializers, a result that isn't finite. Folds not, but lowers to Mul + Add, when the linear operation's result is read
elsewhere or is a graph output; declines even that when the rank of x isn't known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.analysis.channels.affine import ChannelAffine
from graphopt.ir import Graph, Node, Variable, fixed_value
from graphopt.ir.linear import linear_producer, linear_result, linear_view, reads_shape_only, sole_reader
from graphopt.ir.linear_edit import Declined, LinearEdit, affine_input, affine_output
from graphopt.passes._affine_nodes import replace_with_affine
from graphopt.pipeline import Context, Pass


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold BatchNormalization into its linear neighbour, or lower it to Mul + Add."""

    name: ClassVar[str] = "fold-batch-norm"
    summary: ClassVar[str] = "fold BatchNormalization into Conv, ConvTranspose, Gemm or MatMul, else lower it"
    lossless: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: Context) -> None:
        """Fold backwards in graph order, then forwards from the end (so that chains collapse), then lower the rest."""
        for scope in graph.walk():
            found: dict[Node, ChannelAffine] = {}
            for node in scope.live_nodes():
                if node.is_op("BatchNormalization"):
                    affine = _affine_of(scope, node)
                    if isinstance(affine, Declined):
                        ctx.remarks.declined(node, affine.reason)
                    else:
                        found[node] = affine
            backwards = {node: _fold_backwards(scope, node, found[node], ctx) for node in found}
            for node in reversed([n for n in found if n.scope is not None]):
                forwards = _fold_forwards(scope, node, found[node], ctx)
                if forwards is not None:
                    why = backwards[node]
                    _lower(scope, node, found[node], f"{why.reason if why else ''}; {forwards.reason}", ctx)


def _affine_of(graph: Graph, node: Node) -> ChannelAffine | Declined:
    if node.attr("training_mode", 0):
        return Declined("it is in training mode: its statistics come from each batch")
    if not node.attr("spatial", 1):
        return Declined("spatial=0: its statistics differ per position, not only per channel")
    if graph.opset < 7 and not node.attr("is_test", 0):
        return Declined(f"is_test=0 in opset {graph.opset} means training mode")
    if any(t.outputs or graph.is_output(t) for t in node.present_outputs()[1:]):
        return Declined("its running or saved statistics are read, which only training mode computes")
    values = [fixed_value(t) for t in node.inputs[1:5]]
    for tensor, value in zip(node.inputs[1:5], values, strict=True):
        if value is None:
            return Declined(f"its parameter '{tensor.name}' isn't a fixed initializer")
    gamma, beta, mean, variance = (v.astype(np.float64).reshape(-1) for v in values if v is not None)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + float(node.attr("epsilon", 1e-5)))
        shift = beta - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return Declined("its scale gamma / sqrt(var + epsilon) isn't finite for every channel")
    return ChannelAffine(1, scale, shift)


def _fold_backwards(graph: Graph, node: Node, affine: ChannelAffine, ctx: Context) -> Declined | None:
    """Into the linear operation that makes the input; None when done."""
    x, y = node.inputs[0], node.outputs[0]
    linear = linear_producer(graph, x)
    if linear is None or linear.node.scope is not node.scope:
        return Declined(f"its input '{x.name}' is {_origin(graph, node)}, not the result of a linear operation")
    result = linear_result(graph, linear)
    if sole_reader(graph, x) is not node or result is not x:
        return Declined(f"its input '{x.name}' is also {_other_reader(graph, node)}")
    if not _is_axis_one(linear.output_channel_axis, x.shape or y.shape) or linear.out_channels != len(affine.scale):
        return Declined(f"the output channels of {linear.node} aren't known to be on axis 1")
    edit = affine_output(graph, linear, affine.scale, affine.shift)
    if isinstance(edit, Declined):
        return edit
    if not graph.can_replace_uses(y, x):
        return Declined(f"its output '{y.name}' is listed twice as a graph output")
    edit.apply(graph)
    graph.replace_uses(y, x)
    ctx.remarks.applied(node, f"folded into {linear.node}, which makes its input")
    graph.remove(node)
    return None


def _fold_forwards(graph: Graph, node: Node, affine: ChannelAffine, ctx: Context) -> Declined | None:
    """Into all linear operations that read the output; None when done."""
    x, y = node.inputs[0], node.outputs[0]
    if graph.is_output(y):
        return Declined(f"its output '{y.name}' is a graph output")
    edits: list[LinearEdit] = []
    for reader, index in graph.uses(y):
        if reads_shape_only(reader):
            continue
        linear = linear_view(graph, reader)
        if linear is None or index != linear.data_index or reader.scope is not node.scope:
            return Declined(f"its output is read by {reader}, which isn't linear with a fixed weight")
        if not _is_axis_one(linear.data_channel_axis, y.shape or x.shape) or linear.in_channels != len(affine.scale):
            return Declined(f"the input channels of {reader} aren't known to be on axis 1")
        edit = affine_input(graph, linear, affine.scale, affine.shift)
        if isinstance(edit, Declined):
            return Declined(f"not into {reader}: {edit.reason}")
        edits.append(edit)
    for edit in edits:
        edit.apply(graph)
    graph.replace_uses(y, x)
    ctx.remarks.applied(node, f"folded into {', '.join(str(e.linear.node) for e in edits)}, which reads its output")
    graph.remove(node)
    return None


def _lower(graph: Graph, node: Node, affine: ChannelAffine, why: str, ctx: Context) -> None:
    """Replace it by Mul and Add."""
    declined = replace_with_affine(graph, node.inputs[0], node.outputs[0], affine)
    if declined is not None:
        ctx.remarks.declined(node, f"{why}; nor lowered to Mul + Add: {declined.reason}")
        return
    ctx.remarks.applied(node, f"became Mul + Add: {why}")
    graph.remove(node)


def _is_axis_one(axis: int, shape: tuple[int | str | None, ...] | None) -> bool:
    """Whether a channel axis, maybe counted from the end, is axis 1 of a tensor of this shape."""
    return axis == 1 if axis >= 0 else shape is not None and axis + len(shape) == 1


def _origin(graph: Graph, node: Node) -> str:
    producer = graph.producer(node.inputs[0])
    if producer is not None:
        return f"made by {producer}"
    return "a graph input" if isinstance(node.inputs[0], Variable) else "an initializer"


def _other_reader(graph: Graph, node: Node) -> str:
    x = node.inputs[0]
    if graph.is_output(x):
        return "a graph output"
    others = [str(n) for n in graph.consumers(x) if n is not node and not reads_shape_only(n)]
    return f"read by {', '.join(others)}" if others else f"another input of {node}"
