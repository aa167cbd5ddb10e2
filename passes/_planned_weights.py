"""Weights in the plan as rows of numbers: what passes that choose their integers share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Constant, Graph, Node, fixed_value
from graphopt.ir.linear import Linear, linear_view
from graphopt.quant import Range, TensorPlan, solve_params
from graphopt.targets import planned_target

# Half of int32, so that the accumulated products still have room above the bias.
BIAS_LIMIT = 2.0**30

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PlannedWeight:
    """A weight that is in the plan, and the layers that read its integers, in graph order (mostly one)."""

    entry: TensorPlan
    tensor: Constant
    layers: tuple[Linear, ...]

    @property
    def node(self) -> Node:
        """The first layer's node, for remarks."""
        return self.layers[0].node

    @property
    def scales(self) -> int:
        """How many scales the weight has."""
        axis = self.entry.scheme.channel_axis
        return 1 if axis is None else self.tensor.shape[axis]

    @property
    def owner(self) -> NDArray[np.intp]:
        """[out channel]: which scale it uses. A grouped ConvTranspose has one for the same channel of all groups."""
        return np.arange(self.layers[0].out_channels) % self.scales

    def rows(self) -> Array:
        """The values, [out channel, weights of that channel]."""
        return self.layers[0].by_output_channel(self.tensor.values).astype(np.float64)

    def from_rows(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values in the weight's shape and type that `rows()` would give as `rows`."""
        places = self.layers[0].by_output_channel(np.arange(self.tensor.values.size).reshape(self.tensor.shape))
        values = np.empty(rows.size, self.tensor.dtype)
        values[places.reshape(-1)] = rows.reshape(-1)
        return values.reshape(self.tensor.shape)


def planned_weights(graph: Graph) -> Iterator[PlannedWeight | tuple[Node, str]]:
    """Every planned weight, in the order of the layers; (node, reason) for one whose rows aren't well defined."""
    constants = {c.name: c for c in graph.constants}
    position = {n.name: (i, n) for i, n in enumerate(graph.nodes)}
    weights = [e for e in graph.plan if e.tensor in constants and e.edges and all(x.node in position for x in e.edges)]
    for entry in sorted(weights, key=lambda e: min(position[x.node][0] for x in e.edges)):
        edges = sorted(entry.edges, key=lambda x: position[x.node][0])
        found = [(linear_view(graph, position[x.node][1]), x.index) for x in edges]
        layers = tuple(linear for linear, index in found if linear is not None and linear.weight_index == index)
        if not layers:
            continue  # a constant that an elementwise operator reads
        axis = entry.scheme.channel_axis
        first = layers[0]
        if len(layers) < len(found) or any(_layout(x) != _layout(first) for x in layers):
            yield first.node, f"its weight '{entry.tensor}' is read in different layouts"
        elif axis not in (None, first.out_axis) or (not first.is_conv and len(first.weight.shape) > 2):
            yield (
                first.node,
                f"its weight '{entry.tensor}' is a stack of matrices, or has its scales along another axis",
            )
        elif not entry.scheme.symmetric or entry.range is None or first.weight.dtype != np.float32:
            yield first.node, f"its weight '{entry.tensor}' is not float32 on a symmetric grid"
        else:
            yield PlannedWeight(entry, constants[entry.tensor], layers)


def own_values(graph: Graph, weight: PlannedWeight, values: NDArray[np.float32]) -> None:
    """Set a planned weight's values for those who read its integers; nodes that read it as float keep what they had."""
    tensor, nodes = weight.tensor, {x.node.name: x.node for x in weight.layers}
    planned = {(edge.node, edge.index) for edge in weight.entry.edges}
    if all((n.name, i) in planned for n, i in graph.uses(tensor)) and not graph.is_output(tensor):
        graph.set_values(tensor, values)
        return
    copy = graph.constant(values, tensor.name)
    for edge in weight.entry.edges:
        graph.set_input(nodes[edge.node], edge.index, copy)
    # In the place of the old entry: the plan is in graph order.
    graph.plan.tensors = {
        (copy.name if name == tensor.name else name): (replace(e, tensor=copy.name) if name == tensor.name else e)
        for name, e in graph.plan.tensors.items()
    }


def exact_range(scales: NDArray[np.float32], limit: int, axis: int | None) -> Range:
    """The range whose scales on a grid of −limit … limit are exactly `scales`: 8 bits times 24 fit in a float64."""
    high = scales.astype(np.float64) * limit
    high = high.reshape(()) if axis is None else high
    return Range(-high, high)


def least_scales(graph: Graph, entry: TensorPlan, ranges: dict[str, Range], nodes: dict[str, Node]) -> Array:
    """The smallest scale of each channel of a weight with which the int32 bias of its layers doesn't overflow.

    Zeros where the target stores the bias as float, and for layers whose activation has no range in `ranges`. `nodes`
    holds the graph's by name.
    """
    channels = entry.range.low.size if entry.range is not None else 1
    least = np.zeros(channels)
    if graph.plan.target is None:
        return least
    target = planned_target(graph.plan)
    for edge in entry.edges:
        if target.at(graph.plan.precisions.get(edge.node)).bias != "int32":
            continue
        linear = linear_view(graph, nodes[edge.node])
        if linear is None or linear.bias_index is None:
            continue  # the bias of a stack of matrices isn't inside its node, and stays float
        bias = fixed_value(linear.node.input(linear.bias_index))
        data = graph.plan.tensors.get(linear.data.name)
        if bias is None or data is None or data.tensor not in ranges:
            continue
        data_scale = float(solve_params(ranges[data.tensor], data.scheme).scale)
        least = np.maximum(least, _per_channel(bias, channels) / (data_scale * BIAS_LIMIT))
    return least


def known_ranges(graph: Graph) -> dict[str, Range]:
    """The plan's ranges, groups joined; empty before calibration."""
    try:
        return graph.plan.solved_ranges()
    except KeyError:
        return {}


def _layout(linear: Linear) -> tuple[object, ...]:
    return linear.kind, linear.groups, linear.out_axis, linear.weight.shape


def _per_channel(bias: NDArray[np.float32], channels: int) -> Array:
    """Largest |bias| for each index of the weight's channel axis (a grouped ConvTranspose shares them over groups)."""
    flat = np.abs(bias.astype(np.float64)).reshape(-1)
    if flat.size % channels:
        return np.full(channels, flat.max(initial=0.0))
    return flat.reshape(-1, channels).max(axis=0)
