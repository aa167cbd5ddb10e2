"""Weights and biases that a first run has fitted, put into another plan of the same model without fitting again.

What `round-adaptively`, `correct-bias` and `optimize-weight-scales` find for a layer depends a little on which layers
before it are in 8 bits. For telling plans apart the first run's are good enough, and take no time; the plan that is
taken in the end is fitted anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Graph, fixed_value
from graphopt.ir.linear import Linear, bias_add, bias_operand
from graphopt.ir.linear_edit import Declined, affine_output
from graphopt.passes._planned_weights import PlannedWeight, own_values, planned_weights
from graphopt.passes.correct_bias import CorrectBias
from graphopt.passes.optimize_weight_scales import OptimizeWeightScales
from graphopt.passes.round_adaptively import RoundAdaptively
from graphopt.pipeline import Context, Pass
from graphopt.quant import Range

FITTING = (OptimizeWeightScales, RoundAdaptively, CorrectBias)


@dataclass(frozen=True)
class Fitted:
    """What one layer's weight and bias have become.

    Attributes:
        weight: multiples of the scales, in the weight's shape.
        range: what the scales follow from.
        bias: [out channels], what the layer adds to each channel of its result.
    """

    weight: NDArray[Any]
    range: Range
    bias: NDArray[np.float64]


def fitted_layers(graph: Graph) -> dict[str, Fitted]:
    """Node → what its weight and bias are now, for each planned layer that has its weight for itself."""
    found: dict[str, Fitted] = {}
    for weight in _own_weights(graph):
        bias = _bias(graph, weight.layers[0])
        if bias is not None and weight.entry.range is not None:
            found[weight.node.name] = Fitted(weight.tensor.values, weight.entry.range, bias)
    return found


@dataclass(frozen=True)
class UseFitted(Pass):
    """Put fitted weights and biases into the layers that are still planned."""

    name: ClassVar[str] = "use-fitted"
    summary: ClassVar[str] = "take weights and biases from a run before"

    layers: Mapping[str, Fitted]

    def run(self, graph: Graph, ctx: Context) -> None:
        """Replace weights, their ranges and biases of planned layers that are known."""
        for weight in _own_weights(graph):
            known = self.layers.get(weight.node.name)
            layer = weight.layers[0]
            old = None if known is None else _bias(graph, layer)
            if known is None or old is None or known.weight.shape != weight.tensor.shape:
                continue
            graph.plan.set_range(weight.entry.tensor, known.range)
            own_values(graph, weight, known.weight)
            edit = affine_output(graph, layer, shift=known.bias - old)
            if not isinstance(edit, Declined):
                edit.apply(graph)


def _own_weights(graph: Graph) -> Sequence[PlannedWeight]:
    return [w for w in planned_weights(graph) if isinstance(w, PlannedWeight) and len(w.layers) == 1]


def _bias(graph: Graph, layer: Linear) -> NDArray[np.float64] | None:
    """[out channels]; zeros without a bias, None where it isn't one number for each channel."""
    factor, tensor = 1.0, None
    if layer.bias_index is not None:
        tensor = layer.node.input(layer.bias_index)
        factor = float(layer.node.attr("beta", 1.0)) if layer.kind == "Gemm" else 1.0
    elif (add := bias_add(graph, layer)) is not None:
        tensor = add.input(1 - bias_operand(add, layer.output))
    if tensor is None:
        return np.zeros(layer.out_channels)
    value = fixed_value(tensor)
    if value is None or value.size not in (1, layer.out_channels):
        return None
    return np.broadcast_to(factor * value.astype(np.float64).reshape(-1), layer.out_channels)
