"""Replace planned constants by integers and a DequantizeLinear: the float values leave the file.

    Conv(x, W)      →      Conv(x, DequantizeLinear(W_q, s, z)),      W_q = round(W / s) + z,      s = max|W| / 127

One scale per output channel (the plan's channel axis). Rounding is "balanced" by default: the errors of a kernel and of
a channel cancel in the sum (SQuant, see `quant.rounding`), which costs nothing and leaves no shift of the mean.

Where the target stores the bias as int32 in units of s_x · s_w, a channel's s_w is raised if its bias would not fit
otherwise: a channel of tiny weights with a real bias would be clipped without a word. A constant that float nodes read
too stays for them.

Nodes that were assigned "int4-weights" get weights in blocks of 4 bits (see `_block_weights`), and so do all MatMul and
Gemm nodes that aren't planned in 8 bits when there is no assignment and `bits` is 4: that needs neither plan nor
ranges. Activations stay float there.

    rtn    scales with the least squared error, weights rounded to nearest; no data
    gptq   weights rounded so that each layer's output errs least on the calibration samples (see `_block_rounding`)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import ConfigError
from graphopt.ir import Constant, Graph, Node
from graphopt.passes._block_weights import BlockWeight, find_block_weights, nearest_blocks
from graphopt.passes._kept_apart import keep_apart
from graphopt.passes._planned_weights import least_scales
from graphopt.pipeline import Context, Pass
from graphopt.quant import QuantParams, Range, TensorPlan, quantize, round_balanced, solve_params


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store planned constants as integers.

    Attributes:
        rounding: "balanced" (errors cancel in sums) or "nearest", of 8 bits.
        bits: 4 stores weights in blocks, with or without a plan.
        block: how many 4-bit weights share a scale, at most.
        method: how 4-bit weights are chosen: "rtn" or "gptq", which wants samples.
        symmetric: blocks of 4-bit weights have zero point 0; else one each (uint4), where the target takes them.
    """

    name: ClassVar[str] = "quantize-weights"
    summary: ClassVar[str] = "store planned constants as integers with a DequantizeLinear behind them"

    rounding: Literal["balanced", "nearest"] = "balanced"
    bits: Literal[4, 8] = 8
    block: Literal[16, 32, 64, 128, 256] = 32
    method: Literal["rtn", "gptq"] = "rtn"
    symmetric: bool = True

    def run(self, graph: Graph, ctx: Context) -> None:
        """Materialise the plan's constants and take them out of the plan, and store 4-bit weights."""
        self._store_blocks(graph, ctx)
        self.store_planned(graph, ctx)

    def store_planned(self, graph: Graph, ctx: Context) -> None:
        """Materialise the plan's constants and take them out of the plan."""
        constants = {c.name: c for c in graph.constants}
        entries = [entry for entry in graph.plan if entry.tensor in constants]
        if not entries:
            return
        nodes = {n.name: n for n in graph.nodes}
        ranges = _ranges(graph)
        for entry in ctx.steps("storing weights", entries):
            tensor = constants[entry.tensor]
            params = solve_params(ranges[entry.tensor], entry.scheme)
            if entry.edges:
                params = _fit_bias(graph, ctx, entry, params, ranges, nodes)
            before = tensor.nbytes
            self._materialise(graph, entry, tensor, params, nodes)
            graph.plan.remove(entry.tensor)
            ctx.remarks.applied(
                nodes[entry.edges[0].node], f"'{entry.tensor}' as {entry.scheme}, {before} → {tensor.nbytes // 4} bytes"
            )

    def _store_blocks(self, graph: Graph, ctx: Context) -> None:
        """Store 4-bit weights."""
        weights = find_block_weights(graph, ctx, everything=self.bits == 4, block=self.block, symmetric=self.symmetric)
        before = after = 0
        for weight, (rows, params) in zip(weights, self._rounded(graph, ctx, weights), strict=True):
            size = weight.store(graph, rows, params)
            ctx.remarks.applied(
                weight.layer.node,
                f"'{weight.tensor.name}' as {weight.scheme.dtype} in blocks of {weight.scheme.block}, "
                f"{weight.tensor.nbytes} → {size} bytes",
            )
            before, after = before + weight.tensor.nbytes, after + size
            if ctx.target is not None and ctx.target.mistakes_products:
                keep_apart(graph, weight.layer.node)
        if weights:
            ctx.remarks.note(None, f"{len(weights)} weights of {before:,} bytes stored in 4 bits: {after:,} bytes")

    def _rounded(
        self, graph: Graph, ctx: Context, weights: list[BlockWeight]
    ) -> list[tuple[NDArray[Any], QuantParams]]:
        """Integers [out, in] and scales of each weight."""
        if self.method == "gptq" and weights:
            # It brings onnxruntime in, which nothing else here needs.
            from graphopt.passes._block_rounding import round_blocks

            found = round_blocks(graph, ctx, weights)
            if found is not None:
                return found
            ctx.remarks.declined(None, "no samples for gptq, weights are rounded to nearest; give --calibration-data")
        return [nearest_blocks(weight) for weight in weights]

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
    raised = np.maximum(scale, least_scales(graph, entry, ranges, nodes).reshape(scale.shape))
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
