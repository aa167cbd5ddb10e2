"""Move a per-channel scale and shift to the linear operations that can absorb it, through what it passes.

    absorb_upstream:    T becomes s·T + t     by changing the operations that compute T
    absorb_downstream:  T may become T' where T = s·T' + t     by changing the operations that read T

Both ask first: they answer the edits to apply, or why it isn't possible. Nothing but weights, biases and constants
changes, so a caller removes the Mul that did the scaling, or (cross-layer equalization) puts the inverse on the
other side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.channels.affine import ChannelAffine
from graphopt.analysis.channels.passage import hindrance, onto_inputs, onto_output
from graphopt.ir import Constant, Graph, Node, Shape, Tensor, fixed_value
from graphopt.ir.linear import (
    Linear,
    linear_producer,
    linear_result,
    linear_view,
    reads_shape_only,
    sole_reader,
)
from graphopt.ir.linear_edit import Declined, LinearEdit, affine_input, affine_output, rounded

# Operations looked at for one scale: far more than lie between two layers, and it keeps the search linear.
_SEARCH_LIMIT = 128


@dataclass(frozen=True)
class ConstantEdit:
    """A new value for a constant input, for example of a Concat."""

    node: Node
    index: int
    values: NDArray[Any]

    def apply(self, graph: Graph) -> None:
        """Write it; a constant that others read too is copied first."""
        scope = self.node.scope or graph
        scope.set_values(scope.own_constant(self.node, self.index), self.values)


Edit = LinearEdit | ConstantEdit


@dataclass
class _Search:
    """Edits so far, and the operations they and the way to them went through."""

    edits: list[Edit] = field(default_factory=list[Edit])
    visited: set[Node] = field(default_factory=set[Node])

    def visit(self, node: Node) -> Declined | None:
        if node in self.visited:
            return Declined(f"{node} is reached on two ways")
        if len(self.visited) >= _SEARCH_LIMIT:
            return Declined(f"no linear operation within {_SEARCH_LIMIT} operations")
        self.visited.add(node)
        return None


def absorb_upstream(graph: Graph, tensor: Tensor, reader: Node, affine: ChannelAffine) -> list[Edit] | Declined:
    """The edits after which `tensor` holds `affine` of what it holds now.

    `reader` is the one operation that may read it; a tensor on the way that is read elsewhere, or is a graph output,
    would change for others too.
    """
    search = _Search()
    return _upstream(graph, tensor, reader, affine, search) or search.edits


def absorb_downstream(graph: Graph, tensor: Tensor, affine: ChannelAffine) -> list[Edit] | Declined:
    """The edits after which the readers of `tensor` do with x what they do now with `affine` of x."""
    search = _Search()
    return _downstream(graph, tensor, affine, search) or search.edits


def _upstream(graph: Graph, tensor: Tensor, reader: Node, affine: ChannelAffine, search: _Search) -> Declined | None:
    node = graph.producer(tensor)
    if node is None:
        return Declined(f"'{tensor.name}' is {'an initializer' if isinstance(tensor, Constant) else 'a graph input'}")
    if sole_reader(graph, tensor) is not reader:
        return Declined(f"'{tensor.name}' is also {_other_readers(graph, tensor, reader)}")
    if node.scope is not reader.scope:
        return Declined(f"'{tensor.name}' is computed in an enclosing graph")
    again = search.visit(node)
    if again is not None:
        return again
    linear = linear_producer(graph, tensor)
    if linear is not None and linear_result(graph, linear) is tensor:
        return _into_result(graph, linear, tensor.shape, affine, search)
    reason = hindrance(graph, node, 0, affine)
    if reason is not None:
        return Declined(reason)
    inputs = onto_inputs(node, affine)
    if isinstance(inputs, Declined):
        return inputs
    for index, on_input in inputs:
        declined = _into_operand(graph, node, index, on_input, search)
        if declined is not None:
            return declined
    return None


def _into_operand(graph: Graph, node: Node, index: int, affine: ChannelAffine, search: _Search) -> Declined | None:
    """Make input `index` of `node` hold `affine` of what it holds now."""
    value = fixed_value(node.inputs[index])
    if value is not None:
        return _into_constant(node, index, value, affine, search)
    return _upstream(graph, node.inputs[index], node, affine, search)


def _downstream(graph: Graph, tensor: Tensor, affine: ChannelAffine, search: _Search) -> Declined | None:
    if graph.is_output(tensor):
        return Declined(f"'{tensor.name}' is a graph output")
    for node, index in graph.uses(tensor):
        if reads_shape_only(node):
            continue
        if node.scope is not tensor.scope:
            return Declined(f"'{tensor.name}' is read in a nested graph")
        declined = search.visit(node) or _into_reader(graph, node, index, tensor, affine, search)
        if declined is not None:
            return declined
    return None


def _into_reader(
    graph: Graph, node: Node, index: int, tensor: Tensor, affine: ChannelAffine, search: _Search
) -> Declined | None:
    linear = linear_view(graph, node)
    if linear is not None and index == linear.data_index:
        on_channels = _on_channels(affine, linear.data_channel_axis, tensor.shape, linear.in_channels)
        if on_channels is None:
            return Declined(f"it isn't along the input channels of {node}")
        return _keep(affine_input(graph, linear, *on_channels.parts()), node, search)
    reason = hindrance(graph, node, index, affine)
    if reason is not None:
        return Declined(reason)
    on_output = onto_output(node, index, affine)
    if isinstance(on_output, Declined):
        return on_output
    if node.is_op("Add") and affine.has_scale:
        # (s·x + t) + u = s·(x + u/s) + t
        inverse = affine.inverse_scale()
        declined = inverse if isinstance(inverse, Declined) else _into_operand(graph, node, 1 - index, inverse, search)
        if declined is not None:
            return declined
    return _downstream(graph, node.outputs[0], on_output, search)


def _into_result(
    graph: Graph, linear: Linear, shape: Shape | None, affine: ChannelAffine, search: _Search
) -> Declined | None:
    on_channels = _on_channels(affine, linear.output_channel_axis, shape, linear.out_channels)
    if on_channels is None:
        return Declined(f"it isn't along the output channels of {linear.node}")
    return _keep(affine_output(graph, linear, *on_channels.parts()), linear.node, search)


def _into_constant(
    node: Node, index: int, value: NDArray[Any], affine: ChannelAffine, search: _Search
) -> Declined | None:
    column = [1] * value.ndim
    if affine.axis is not None:
        column[affine.axis] = -1
    with np.errstate(all="ignore"):
        changed = value.astype(np.float64) * affine.scale.reshape(column) + affine.shift.reshape(column)
    stored = rounded(changed, value.dtype)
    if stored is None:
        return Declined(f"input {index} of {node} would hold values that aren't finite in {value.dtype}")
    search.edits.append(ConstantEdit(node, index, stored))
    return None


def _keep(edit: LinearEdit | Declined, node: Node, search: _Search) -> Declined | None:
    if isinstance(edit, Declined):
        return Declined(f"not into {node}: {edit.reason}")
    search.edits.append(edit)
    return None


def _on_channels(affine: ChannelAffine, channel_axis: int, shape: Shape | None, channels: int) -> ChannelAffine | None:
    """`affine` with a number for each of `channels`; None when it isn't along `channel_axis` of a tensor of `shape`."""
    if affine.axis is not None and channel_axis < 0:
        if shape is None:
            return None
        channel_axis += len(shape)
    return affine.channels(channels) if affine.axis in (None, channel_axis) else None


def _other_readers(graph: Graph, tensor: Tensor, reader: Node) -> str:
    if graph.is_output(tensor):
        return "a graph output"
    others = [str(n) for n in graph.consumers(tensor) if n is not reader and not reads_shape_only(n)]
    return f"read by {', '.join(others)}" if others else f"another input of {reader}"
