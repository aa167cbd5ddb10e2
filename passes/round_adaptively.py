"""Round each weight so that its layer's output errs least on the calibration samples, layer after layer.

    W      →      Ŵ = s·q,      q = argmin E‖W x − Ŵ x̂‖²

x is what the layer reads in the float model, x̂ what it reads in the quantized one, behind layers that have been rounded
already: each layer makes up for what those before it have lost, as far as the samples can tell. In two steps:

    W* = W + W E[(x − x̂) x̂ᵀ] (E[x̂ x̂ᵀ] + λI)⁻¹         the best float weight; λ is what helps most on unseen samples
    q  = integers next to W*/s with the least (q − W*/s)ᵀ E[x̂ x̂ᵀ] (q − W*/s)         see `quant.adaptive_rounding`

Everything is fitted on half of the samples and tried on the other half first: a layer for which that is no better than
what `quantize-weights` does stays as it is. The weight's constant then holds exact multiples of its scales, which
`quantize-weights` stores as they are.

Declines without samples, and for a weight that several layers read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import NodeProto, numpy_helper

from graphopt.ir import Graph
from graphopt.ir.linear import Linear, bias_add, linear_result
from graphopt.passes._layer_rounding import LayerRounding, RowParts, input_moments
from graphopt.passes._planned_weights import PlannedWeight, exact_range, own_values, planned_weights
from graphopt.passes._simulation import Pair, open_pair
from graphopt.passes.correct_bias import along, mean_shift
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context, Pass


@dataclass(frozen=True)
class RoundAdaptively(Pass):
    """Choose the integers of planned weights.

    Attributes:
        centred: leave errors of a channel's mean to `correct-bias`; "no" where that pass doesn't come behind.
        asymmetric: make up for errors of the layers before.
    """

    name: ClassVar[str] = "round-adaptively"
    summary: ClassVar[str] = "round weights so that each layer's output errs least on the calibration samples"

    centred: bool = True
    asymmetric: bool = True

    def run(self, graph: Graph, ctx: Context) -> None:
        """Replace the values of planned weights by multiples of their scales."""
        weights: list[PlannedWeight] = []
        for found in planned_weights(graph):
            if not isinstance(found, PlannedWeight):
                ctx.remarks.declined(*found)
            elif len(found.layers) > 1:
                ctx.remarks.declined(found.node, f"its weight '{found.entry.tensor}' is read by other layers, too")
            else:
                weights.append(found)
        if not weights:
            return
        pair = open_pair(graph, ctx, QuantizeWeights())
        if pair is None:
            ctx.remarks.declined(None, "no samples to round with; give them with --calibration-data")
            return
        sweep = _Sweep(self, graph, ctx, pair)
        changed = sum(sweep.round(weight) for weight in ctx.steps("rounding weights", weights))
        ctx.remarks.note(None, f"{changed} of {len(weights)} weights rounded by what their layers read")


class _Sweep:
    """Both models in the middle of their runs; weights are rounded as the runs come to them."""

    def __init__(self, options: RoundAdaptively, graph: Graph, ctx: Context, pair: Pair) -> None:
        self.options, self.graph, self.ctx, self.pair = options, graph, ctx, pair
        self.nodes = {node.name: node for node in pair.planned.graph.node}
        self.makers = {output: node for node in pair.planned.graph.node for output in node.output}
        self.stored = {tensor.name: tensor for tensor in pair.planned.graph.initializer}

    def _read_by(self, node: NodeProto, layer: Linear) -> str:
        """What a layer reads in the quantized model, in front of its strides where `insert-qdq` has taken them out."""
        data = node.input[layer.data_index]
        strided = max(layer.node.attr("strides", ()), default=1) > 1
        if strided and not any(attribute.name == "strides" for attribute in node.attribute):
            data = self.makers[data].input[0]
        return data

    def round(self, weight: PlannedWeight) -> bool:
        """Round one weight, in the graph and in the quantized model's run; False where it stays as it is."""
        layer = weight.layers[0]
        node = self.nodes[layer.node.name]
        dequantize = self.makers[node.input[layer.weight_index]]
        integers, scales = (numpy_helper.to_array(self.stored[name]) for name in dequantize.input[:2])
        # A MatMul without bias can't leave anything to correct-bias.
        biased = layer.kind != "MatMul" or bias_add(self.graph, layer) is not None
        moments = input_moments(self.pair, layer, self._read_by(node, layer), asymmetric=self.options.asymmetric)
        blocks = RowParts(layer.groups if layer.is_conv else 1, moments.blocks)
        scale = scales.reshape(-1)[weight.owner].astype(np.float64)[:, None]
        rows = weight.rows()
        problem = LayerRounding(
            blocks.cut(rows / scale),
            blocks.cut(layer.by_output_channel(integers).astype(np.float64)),
            blocks.cut(np.broadcast_to(scale, rows.shape))[..., :1],
            -weight.entry.scheme.qmax,
            weight.entry.scheme.qmax,
        )
        centred = self.options.centred and biased
        whole, first, second = (moments.moments(half, centred=centred) for half in (None, 0, 1))
        assert whole is not None  # there is at least one sample
        q = problem.choose(whole, None if first is None or second is None else (first, second))
        if q is None:
            self.ctx.remarks.declined(layer.node, "its weights stay: no rounding was better on samples left out")
        else:
            joined = blocks.join(q)
            self.pair.quantized.set_constant(
                dequantize.input[0], weight.from_rows(joined.astype(np.float32)).astype(integers.dtype)
            )
            limit, axis = weight.entry.scheme.qmax, weight.entry.scheme.channel_axis
            self.graph.plan.set_range(weight.entry.tensor, exact_range(scales, limit, axis))
            own_values(self.graph, weight, weight.from_rows(joined.astype(np.float32) * scale.astype(np.float32)))
            moved = np.count_nonzero(q - problem.plain) / q.size
            self.ctx.remarks.applied(layer.node, f"{moved:.0%} of its weights rounded another way")
        if centred:
            self._take_back_shift(layer)
        return q is not None

    def _take_back_shift(self, layer: Linear) -> None:
        """Let the layers behind see what `correct-bias` is going to make of the result."""
        name = linear_result(self.graph, layer).name
        wanted, found = self.pair.reference.fetch([name])[0], self.pair.quantized.fetch([name])[0]
        shift = mean_shift(wanted, found, layer.output_channel_axis).astype(np.float32)
        added = along(shift, found[0].ndim, layer.output_channel_axis)
        self.pair.quantized.replace(name, [values + added for values in found])
