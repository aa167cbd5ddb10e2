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
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import ConfigError
from graphopt.ir import Constant, Graph, Node, fixed_value
from graphopt.ir.linear import linear_view
from graphopt.pipeline import Context, Pass
from graphopt.quant import QuantParams, Range, TensorPlan, quantize, round_balanced, solve_params
from graphopt.targets import find_target

# Half of int32, so that the accumulated products still have room above the bias.
BIAS_LIMIT = 2.0**30


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
            if entry.scheme.channel_axis is not None and graph.plan.target is not None:
                params = self._fit_bias(graph, ctx, entry, params, nodes, ranges)
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
        self,
        graph: Graph,
        ctx: Context,
        entry: TensorPlan,
        params: QuantParams,
        nodes: dict[str, Node],
        ranges: dict[str, Range],
    ) -> QuantParams:
        """Scales raised where the int32 bias of one of the weight's nodes would overflow."""
        target = find_target(graph.plan.target or "")
        if target.bias != "int32":
            return params
        scale = params.scale.astype(np.float64)
        for edge in entry.edges:
            linear = linear_view(graph, nodes[edge.node])
            if linear is None or linear.bias_index is None:
                continue
            bias = fixed_value(linear.node.input(linear.bias_index))
            data = graph.plan.tensors.get(linear.data.name)
            if bias is None or data is None:
                continue
            data_scale = float(solve_params(ranges[data.tensor], data.scheme).scale)
            needed = _per_channel(bias, scale.shape[0]) / (data_scale * BIAS_LIMIT)
            raised = np.maximum(scale, needed)
            if (raised > scale).any():
                ctx.remarks.note(
                    linear.node,
                    f"{int((raised > scale).sum())} channels got a coarser weight scale so that the bias fits",
                )
            scale = raised
        return replace(params, scale=scale.astype(np.float32))


def _per_channel(bias: NDArray[Any], channels: int) -> NDArray[np.float64]:
    """Largest |bias| for each index of the weight's channel axis (a grouped ConvTranspose shares them over groups)."""
    flat = np.abs(bias.astype(np.float64)).reshape(-1)
    if flat.size % channels:
        return np.full(channels, flat.max(initial=0.0))
    return flat.reshape(-1, channels).max(axis=0)


def _ranges(graph: Graph) -> dict[str, Range]:
    try:
        return graph.plan.solved_ranges()
    except KeyError as missing:
        raise ConfigError(f"tensor {missing} has no range yet: put 'calibrate' before 'quantize-weights'") from None
