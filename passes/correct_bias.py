"""Take the mean error that quantization leaves in each channel of a layer's result out of its bias.

    Conv(x, W) + b      →      Conv(x, W) + (b + d),      d = E[Conv(x, W) + b] − E[Conv(x_q, W_q) + b_q]

E is the mean over calibration samples and positions; x_q is what the quantized layers before it, corrected already,
make of them. Layers are corrected in graph order in one sweep over both models: each node runs once on each sample.

Declines where the result has no bias to take it (a MatMul without Add), or where there are too few values to tell a
mean from chance: the correction is shrunk by what its standard error explains.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2
and appendix D (empirical correction).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Graph
from graphopt.ir.linear import Linear, bias_add, linear_result, linear_view
from graphopt.ir.linear_edit import Declined, affine_output
from graphopt.passes._simulation import Pair, open_pair
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context, Pass

Samples = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Correct biases by the shift of each channel's mean.

    Attributes:
        rounding: how `quantize-weights` is going to round.
    """

    name: ClassVar[str] = "correct-bias"
    summary: ClassVar[str] = "take the shift of each layer's mean under quantization out of its bias"

    rounding: Literal["balanced", "nearest"] = "balanced"

    def run(self, graph: Graph, ctx: Context) -> None:
        """Correct the bias of every planned linear layer, in graph order."""
        layers = [
            layer
            for node in graph.nodes
            if node.name in graph.plan.quantized_nodes and (layer := linear_view(graph, node)) is not None
        ]
        if not layers:
            return
        pair = open_pair(graph, ctx, QuantizeWeights(self.rounding))
        if pair is None:
            ctx.remarks.declined(None, "no samples to measure shifts on; give them with --calibration-data")
            return
        for layer in ctx.steps("correcting biases", layers):
            if layer.kind == "MatMul" and bias_add(graph, layer) is None:
                ctx.remarks.declined(layer.node, "it has no bias that could take a correction")
            else:
                _correct(graph, ctx, layer, pair)


def _correct(graph: Graph, ctx: Context, layer: Linear, pair: Pair) -> None:
    name = linear_result(graph, layer).name
    wanted, found = pair.reference.fetch([name])[0], pair.quantized.fetch([name])[0]
    axis = layer.output_channel_axis
    shift = mean_shift(wanted, found, axis)
    edit = affine_output(graph, layer, shift=shift)
    if isinstance(edit, Declined):
        ctx.remarks.declined(layer.node, edit.reason)
        return
    edit.apply(graph)
    size = float(np.sqrt(np.mean(np.square(shift))))
    ctx.remarks.applied(layer.node, f"bias corrected by {size:.3g} (root mean square over {shift.size} channels)")
    added = shift.astype(np.float32)
    pair.quantized.replace(name, [values + along(added, values.ndim, axis) for values in found])


def mean_shift(wanted: Samples, found: Samples, axis: int) -> NDArray[np.float64]:
    """What to add to each channel of `found` so that its mean is that of `wanted`, as far as it isn't chance.

    Args:
        wanted: one array a sample.
        found: as many, of the same shapes.
        axis: the one that holds channels.

    Returns:
        Float64 [channels]: d·d²/(d² + e²), d the mean over samples of their mean differences, and e its standard error
        (the factor that minimises the expected squared error of an estimate with a noise of e).
    """
    differences = np.stack(
        [
            (first.astype(np.float64) - second).mean(axis=tuple(k for k in range(first.ndim) if k != axis % first.ndim))
            for first, second in zip(wanted, found, strict=True)
        ]
    )
    mean = differences.mean(axis=0)
    count = len(differences)
    noise = differences.var(axis=0, ddof=1) / count if count > 1 else np.square(mean)
    total = np.square(mean) + noise
    return mean * np.divide(np.square(mean), total, out=np.zeros_like(mean), where=total > 0)


def along(values: NDArray[Any], rank: int, axis: int) -> NDArray[Any]:
    """`values` [channels] shaped to broadcast along `axis` of an array of `rank`."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)
