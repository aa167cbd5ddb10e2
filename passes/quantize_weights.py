"""Replace planned constants by integers and a DequantizeLinear: the float values leave the file.

    Conv(x, W)      →      Conv(x, DequantizeLinear(W_q, s, z)),      W_q = round(W / s) + z,      s = max|W| / 127

One scale per output channel (the plan's channel axis). Rounding is "balanced" by default: the errors of a kernel and of
a channel cancel in the sum (SQuant, see `quant.rounding`), which costs nothing and leaves no shift of the mean.

Where the target stores the bias as int32 in units of s_x · s_w, a channel's s_w is raised if its bias would not fit
otherwise: a channel of tiny weights with a real bias would be clipped without a word. A constant that float nodes read
too stays for them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from graphopt.errors import ConfigError
from graphopt.ir import Constant, Graph, Node
from graphopt.passes._planned_weights import least_scales
from graphopt.pipeline import Context, Pass
from graphopt.quant import QuantParams, Range, TensorPlan, quantize, round_balanced, solve_params


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store planned constants as integers.

    Attributes:
        rounding: "balanced" (errors cancel in sums) or "nearest".
    """

    name: ClassVar[str] = "quantize-weights"
    summary: ClassVar[str] = "store planned constants as integers with a DequantizeLinear behind them"

    rounding: Literal["balanced", "nearest"] = "balanced"

    def run(self, graph: Graph, ctx: Context) -> None:
        """Materialise the plan's constants and take them out of the plan."""
        constants = {c.name: c for c in graph.constants}
        entries = [entry for entry in graph.plan if entry.tensor in constants]
        if not entries:
            return
        nodes = {n.name: n for n in graph.nodes}
        ranges = _ranges(graph)
        for entry in entries:
            tensor = constants[entry.tensor]
            params = solve_params(ranges[entry.tensor], entry.scheme)
            if entry.scheme.channel_axis is not None and entry.edges:
                params = _fit_bias(graph, ctx, entry, params, ranges, nodes)
            before = tensor.nbytes
            self._materialise(graph, entry, tensor, params, nodes)
            graph.plan.remove(entry.tensor)
            ctx.remarks.applied(
                nodes[entry.edges[0].node], f"'{entry.tensor}' as {entry.scheme}, {before} → {tensor.nbytes // 4} bytes"
            )

    def _materialise(
        self, graph: Graph, entry: TensorPlan, tensor: Constant, params: QuantParams, nodes: dict[str, Node]
    ) -> None:
        scheme = entry.scheme
        integers = (round_balanced if self.rounding == "balanced" else quantize)(tensor.values, params)
        stored = graph.constant(integers, f"{tensor.name}_quantized")
        scale = graph.constant(params.scale, f"{tensor.name}_scale")
        zero_point = graph.constant(params.zero_point, f"{tensor.name}_zero_point")
        output = graph.variable(f"{tensor.name}_dequantized", tensor.dtype, tensor.shape)
        attrs = {} if scheme.channel_axis is None else {"axis": scheme.channel_axis}
        graph.add_node("DequantizeLinear", [stored, scale, zero_point], [output], attrs)
        for edge in entry.edges:
            graph.set_input(nodes[edge.node], edge.index, output)


def _fit_bias(
    graph: Graph, ctx: Context, entry: TensorPlan, params: QuantParams, ranges: dict[str, Range], nodes: dict[str, Node]
) -> QuantParams:
    """Scales raised where the int32 bias of one of the weight's layers would overflow."""
    scale = params.scale.astype(np.float64)
    raised = np.maximum(scale, least_scales(graph, entry, ranges, nodes))
    count = int((raised > scale).sum())
    if not count:
        return params
    ctx.remarks.note(nodes[entry.edges[0].node], f"{count} channels got a coarser weight scale so that the bias fits")
    return replace(params, scale=raised.astype(np.float32))


def _ranges(graph: Graph) -> dict[str, Range]:
    try:
        return graph.plan.solved_ranges()
    except KeyError as missing:
        raise ConfigError(f"tensor {missing} has no range yet: put 'calibrate' before 'quantize-weights'") from None
