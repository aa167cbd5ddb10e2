"""Round weights in blocks so that each layer's output errs least on the calibration samples, layer after layer.

    q  =  argmin (s·q − W*) E[x̂ x̂ᵀ] (s·q − W*)ᵀ         W* and the search for q: see `round_adaptively`

x̂ is what the layer reads in the model whose layers before have been rounded already. This is GPTQ (Frantar et al., ICLR
2023: the weights are rounded one after the other, those with the strongest inputs first, and the rest make up for each
error), followed by coordinate descent. Scales come first, with the least squared error weighted by E[x̂²]: so all of a
row's are known whatever the order in which its weights are rounded. All is fitted on half of the samples and tried on
the other half; a layer for which that is no better than rounding to nearest is rounded to nearest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.moments import Moments
from graphopt.ir import Graph
from graphopt.passes._block_weights import BlockWeight, nearest_blocks
from graphopt.passes._layer_rounding import LayerRounding, RowParts, input_moments
from graphopt.passes._simulation import Pair, open_pair
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context
from graphopt.quant import QuantParams, dequantize, quantize
from graphopt.quant.adaptive_rounding import QUICK_SWEEPS, SWEEPS, THOROUGH
from graphopt.quant.block_scales import solve_blocks

# 16 integers leave errors large enough to trust even weak directions: with 0.01 and 1 alone, as for 8 bits, two small
# transformers lose 0.2 dB, and a layer of strongly correlated inputs 3.
_DAMPINGS = (0.001, 0.01, 0.1, 1.0)
# Worked on at a time, whole rows: some 20 float64 arrays of so many are alive.
_MOST_WEIGHTS = 1 << 22
# Of the mean power of an input, added to each one's: an input that the samples hardly show may be strong elsewhere.
_LEAST_IMPORTANCE = 0.01


def round_blocks(
    graph: Graph, ctx: Context, weights: list[BlockWeight]
) -> list[tuple[NDArray[Any], QuantParams]] | None:
    """Integers [out, in] and scales of each weight, given in the order of the layers; None without samples.

    Raises:
        ConfigError: a planned tensor has no range yet.
    """
    pair = open_pair(graph, ctx, _PlannedWeights())
    if pair is None:
        return None
    nodes = {node.name: node for node in pair.planned.graph.node}
    found: list[tuple[NDArray[Any], QuantParams]] = []
    for weight in ctx.steps("rounding weights", weights):
        layer = weight.layer
        rounded = _round(ctx, pair, weight, nodes[layer.node.name].input[layer.data_index])
        if len(weight.tensor.outputs) == 1:
            values = np.ascontiguousarray(weight.shaped(dequantize(*rounded)))
            pair.quantized.set_constant(weight.tensor.name, values)
        found.append(rounded)
    return found


@dataclass(frozen=True)
class _PlannedWeights(QuantizeWeights):
    """`quantize-weights` for the plan's 8 bits alone: in the simulation the other weights are float until rounded."""

    name: ClassVar[str] = QuantizeWeights.name

    def run(self, graph: Graph, ctx: Context) -> None:
        """Materialise the plan's constants."""
        self.store_planned(graph, ctx)


def _round(ctx: Context, pair: Pair, weight: BlockWeight, data: str) -> tuple[NDArray[Any], QuantParams]:
    """One weight, by what its layer reads: `data` in the quantized model."""
    moments = input_moments(pair, weight.layer, data)
    whole, first, second = (moments.moments(half) for half in (None, 0, 1))
    assert whole is not None  # there is at least one sample
    halves = None if first is None or second is None else (first, second)
    # Not of all: the other half is to judge the scales, too.
    power = np.einsum("bkk->bk", (whole if first is None else first).second).reshape(-1)
    importance = power + max(_LEAST_IMPORTANCE * float(power.mean()), 1e-30)
    rows = weight.rows()
    integers, nearest = nearest_blocks(weight)
    params = solve_blocks(rows, weight.scheme, signed=weight.signed, importance=importance)
    step = max(1, _MOST_WEIGHTS // rows.shape[1])
    better = 0
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        found = _choose(rows[part], _part(nearest, part), _part(params, part), whole, halves)
        if found is not None:
            integers[part] = found
            nearest.scale[part], nearest.zero_point[part] = params.scale[part], params.zero_point[part]
            better += 1
    if not better:
        ctx.remarks.declined(
            weight.layer.node, "its weights are rounded to nearest: nothing was better on samples left out"
        )
    return integers, nearest


def _choose(
    rows: NDArray[np.float32],
    nearest: QuantParams,
    params: QuantParams,
    whole: Moments,
    halves: tuple[Moments, Moments] | None,
) -> NDArray[Any] | None:
    """The best integers for some rows; None where those nearest to them, on scales of their own, are better."""
    scheme, count = params.scheme, len(whole.second)
    assert scheme.block is not None
    inside = np.arange(rows.shape[1]) // scheme.block
    step = np.take(params.scale, inside, axis=1).astype(np.float64)
    zero = np.take(params.zero_point, inside, axis=1).astype(np.float64)
    parts = RowParts(1, count)
    problem = LayerRounding(
        parts.cut(rows.astype(np.float64)),
        parts.cut(dequantize(quantize(rows, nearest), nearest).astype(np.float64)),
        np.ones((count, len(rows), 1)),
        parts.cut(scheme.qmin - zero),
        parts.cut(scheme.qmax - zero),
        step=parts.cut(step),
        anywhere=True,
        dampings=_DAMPINGS,
        trial_sweeps=0,
        sweeps=SWEEPS if rows.shape[1] <= THOROUGH else QUICK_SWEEPS,
    )
    values = problem.choose(whole, halves)
    return None if values is None else (np.rint(parts.join(values) / step) + zero).astype(scheme.numpy)


def _part(params: QuantParams, rows: slice) -> QuantParams:
    return replace(params, scale=params.scale[rows], zero_point=params.zero_point[rows])
