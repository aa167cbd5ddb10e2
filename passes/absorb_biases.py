"""Move what a channel never falls below into the bias of the layer behind its Relu, so that its range shrinks.

    y = Conv(Relu(Conv(x, W, b)), V, d)   →   y = Conv(Relu(Conv(x, W, b − c)), V, d + V·c)
    c = the smallest value that Relu gives in that channel on the samples, where that is above 0

A grid must hold zero: a channel between 5 and 6 uses a sixth of it, and one between 0 and 1 all of it. Exact for values
of at least c; what falls below c, which no sample did, comes out as c: that is why the pass isn't lossless.

Declines where the range of the whole tensor, which decides its scale, wouldn't shrink by a tenth; where zeros are
padded in behind the Relu, which have no c taken out; where something reads the tensor that can't take up a constant;
without samples.
Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1.3
(c from the samples instead of the mean minus three standard deviations of BatchNorm).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.analysis.channels.affine import ChannelAffine
from graphopt.analysis.channels.flow import channel_flow
from graphopt.analysis.scale_flow import absorb_downstream, absorb_upstream
from graphopt.calibration.channel_moments import collect_channels
from graphopt.calibration.per_channel import Floats
from graphopt.calibration.weights import detached
from graphopt.errors import ConfigError
from graphopt.ir import Graph, Node
from graphopt.ir.linear_edit import Declined
from graphopt.pipeline import Context, Pass
from graphopt.quant import Range


@dataclass(frozen=True)
class AbsorbBiases(Pass):
    """Take the constant part of channels behind a Relu out of their range.

    Attributes:
        least_shrinking: the share of its range that a tensor must lose.
    """

    name: ClassVar[str] = "absorb-biases"
    summary: ClassVar[str] = "move what a channel never falls below on the samples into the next layer's bias"

    least_shrinking: float = 0.1

    def run(self, graph: Graph, ctx: Context) -> None:
        """Observe every Relu once, then absorb one after the other."""
        if graph.plan:
            raise ConfigError(f"{self.name} changes tensors whose ranges are planned: put it before plan-quantization")
        flow = channel_flow(graph)
        axes = {
            node: flow.tensors[node.outputs[0]].axis
            for node in graph.nodes
            if node.is_op("Relu") and node.outputs[0] in flow.tensors
        }
        if not axes:
            return
        if ctx.ranges is None and ctx.calibration is None:
            ctx.remarks.declined(None, "no samples to see channels on; give them with --calibration-data")
            return
        constants = self._found(graph, axes, ctx) if ctx.ranges is None else self._kept(axes, ctx.ranges)
        for node, constant in constants.items():
            reason = _absorb(graph, node, axes[node], constant)
            if reason is not None:
                ctx.remarks.declined(node, reason)
                continue
            ctx.kept[self._name(node)] = Range(constant, constant)
            ctx.remarks.applied(node, f"up to {constant.max():.3g} taken out of {np.count_nonzero(constant)} channels")

    def _found(self, graph: Graph, axes: dict[Node, int], ctx: Context) -> dict[Node, Floats]:
        """The constant part of each Relu's channels on the samples, where it makes a difference."""
        assert ctx.calibration is not None  # asked by the caller
        seen = collect_channels(
            detached(graph),
            {node.outputs[0].name: axis for node, axis in axes.items()},
            ctx.calibration,
            threads=ctx.threads,
            providers=ctx.resources.providers or None,
            memory_budget=ctx.resources.memory_budget,
        )
        found: dict[Node, Floats] = {}
        for node in axes:
            channels = seen[node.outputs[0].name]
            constant = np.maximum(channels.lowest, 0.0)
            if not channels.samples or not constant.any():
                continue
            before, after = float(channels.largest.max()), float((channels.largest - constant).max())
            if after <= (1 - self.least_shrinking) * before:
                found[node] = constant
            else:
                ctx.remarks.declined(node, f"its range would shrink from {before:.3g} to {after:.3g} only")
        return found

    def _kept(self, axes: dict[Node, int], ranges: dict[str, Range]) -> dict[Node, Floats]:
        """What was taken out when the ranges were found."""
        return {node: ranges[self._name(node)].low for node in axes if self._name(node) in ranges}

    def _name(self, node: Node) -> str:
        return f"{self.name}/{node.outputs[0].name}"


def _absorb(graph: Graph, node: Node, axis: int, constant: Floats) -> str | None:
    """Take `constant` [channels] out of the result of a Relu; the reason where that isn't possible."""
    ones = np.ones_like(constant)
    downstream = absorb_downstream(graph, node.outputs[0], ChannelAffine(axis, ones, constant))
    if isinstance(downstream, Declined):
        return downstream.reason
    upstream = absorb_upstream(graph, node.inputs[0], node, ChannelAffine(axis, ones, -constant))
    if isinstance(upstream, Declined):
        return upstream.reason
    for edit in (*upstream, *downstream):
        edit.apply(graph)
    return None
