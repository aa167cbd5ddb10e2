"""Store weights as float16, with a Cast behind each: half the file, and the engine still computes in float32.

    Conv(x, W: f32)      →      Conv(x, Cast(W: f16))

Every engine reads it: onnxruntime and TensorRT cast once when they load the model, OpenVINO keeps such weights
compressed, and a .tflite gets the float16 itself with a DEQUANTIZE, which is TFLite's own float16 quantization. Weights
that are integers are left alone. With a mixed assignment the nodes that it calls "float16-weights" are changed, else
every linear node in float.

Declines: a weight that holds a value beyond float16's, 65,504; one that something else reads in float32, which would
then be stored twice; a channel that loses more than 2⁻¹⁰ of its weights' norm, as tiny ones do (float16 has 11 bits
from 6·10⁻⁵ on, fewer below). A channel that is 2¹⁰ times smaller than the layer's largest is judged as if it were not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Constant, Graph, Node
from graphopt.ir.dtypes import onnx_dtype
from graphopt.ir.linear import Linear, linear_view
from graphopt.pipeline import Context, Pass

_FLOAT32 = np.dtype(np.float32)
_LARGEST_LOSS = 2.0**-10  # twice what rounding to 11 bits costs at most
_SMALL_CHANNEL = 2.0**-10


@dataclass(frozen=True)
class StoreFloat16Weights(Pass):
    """Halve the float weights of linear nodes."""

    name: ClassVar[str] = "store-float16-weights"
    summary: ClassVar[str] = "store the float weights of linear nodes as float16, with a Cast to float32 behind them"

    def run(self, graph: Graph, ctx: Context) -> None:
        """Convert; the weights of one node or of several that share them."""
        planned = {entry.tensor for entry in graph.plan}
        readers: dict[Constant, list[Linear]] = {}
        for node in _chosen(graph, ctx):
            linear = linear_view(graph, node)
            if linear is not None and linear.weight.dtype == _FLOAT32 and linear.weight.name not in planned:
                readers.setdefault(linear.weight, []).append(linear)
        before = sum(weight.nbytes for weight in readers)
        stored = 0
        for weight, linears in readers.items():
            if reason := _misfit(graph, weight, linears):
                ctx.remarks.declined(linears[0].node, f"its weight stays float32: {reason}")
            else:
                stored += _store(graph, weight, linears)
        if stored:
            ctx.remarks.note(None, f"weights of {stored:,} bytes stored as float16, of {before:,} in float32")


def _chosen(graph: Graph, ctx: Context) -> list[Node]:
    """The nodes that a mixed assignment names; all where there is none."""
    assigned = graph.plan.precisions
    if not assigned and ctx.precision is None:
        return list(graph.nodes)
    return [node for node in graph.nodes if assigned.get(node.name) == "float16-weights"]


def _misfit(graph: Graph, weight: Constant, linears: list[Linear]) -> str | None:
    """Why a weight has to stay as it is."""
    known = {(linear.node, linear.weight_index) for linear in linears}
    if graph.is_output(weight) or any(use not in known for use in graph.uses(weight)):
        return f"'{weight.name}' is read in float32 elsewhere, too"
    values = weight.values
    if not np.isfinite(values).all():
        return f"'{weight.name}' isn't finite"
    with np.errstate(over="ignore"):
        error = values.astype(np.float16).astype(np.float64) - values
    if not np.isfinite(error).all():
        return f"'{weight.name}' holds {float(np.abs(values).max()):.3g}, which is infinite in float16"
    for linear in linears:
        norms, losses = (np.sqrt(_squares(linear, v)) for v in (values.astype(np.float64), error))
        floor = np.maximum(norms, _SMALL_CHANNEL * norms.max())
        channel = int(np.argmax(losses - _LARGEST_LOSS * floor))
        if losses[channel] > _LARGEST_LOSS * floor[channel]:
            share = losses[channel] / norms[channel]
            return f"channel {channel} of '{weight.name}' would lose {share:.1%} of its norm: too small for float16"
    return None


def _squares(linear: Linear, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of squares of each output channel."""
    return (linear.by_output_channel(values) ** 2).sum(axis=1)


def _store(graph: Graph, weight: Constant, linears: list[Linear]) -> int:
    """Replace the weight; how many bytes it has now."""
    half = graph.constant(weight.values.astype(np.float16), f"{weight.name}_float16")
    wide = graph.variable(f"{weight.name}_float32", _FLOAT32, weight.shape)
    graph.add_node("Cast", [half], [wide], {"to": onnx_dtype(_FLOAT32)})
    for linear in linears:
        graph.set_input(linear.node, linear.weight_index, wide)
    return half.nbytes
