"""Choose each weight's scales by least squared error: large weights may be clipped so that the others err less.

    plan: W range ±max|W|      →      plan: W range ±127·s,      s = argmin Σ_k h_k (W_k − s·clip(round(W_k / s)))²

`h` is the variance of the input that a weight multiplies, from the calibration samples of the float model; without
samples every weight counts the same. Variance and not mean square, because what a mean contributes to the error is a
constant per channel, and `correct-bias` takes that back. For targets with an int32 bias no scale gets smaller than the
bias needs. A weight whose layers read it in different layouts is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.moments import InputVariance
from graphopt.calibration.prefix import Prefix
from graphopt.calibration.windows import Windows
from graphopt.ir import Graph
from graphopt.passes._planned_weights import PlannedWeight, exact_range, known_ranges, least_scales, planned_weights
from graphopt.passes._simulation import affordable_samples, float_reference
from graphopt.pipeline import Context, Pass
from graphopt.quant.weight_scales import search_scales


@dataclass(frozen=True)
class OptimizeWeightScales(Pass):
    """Set the ranges of planned weights.

    Attributes:
        candidates: how many scales to try for a channel.
        data: whether to use the calibration samples, where there are any.
    """

    name: ClassVar[str] = "optimize-weight-scales"
    summary: ClassVar[str] = "choose the scales of weights by least squared error, weighted with the input's variance"

    candidates: int = 100
    data: bool = True

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"candidates is {self.candidates}; expected at least 1")

    def run(self, graph: Graph, ctx: Context) -> None:
        """Replace the range of every weight whose error gets smaller."""
        weights: list[PlannedWeight] = []
        for found in planned_weights(graph):
            if isinstance(found, PlannedWeight):
                weights.append(found)
            else:
                ctx.remarks.declined(*found)
        if not weights:
            return
        ranges, nodes = known_ranges(graph), {n.name: n for n in graph.nodes}
        for weight, importance in self._importance(graph, ctx, weights):
            entry = weight.entry
            limit = entry.scheme.qmax
            rows = weight.rows()
            least = least_scales(graph, entry, ranges, nodes)
            scales = search_scales(rows, weight.owner, importance, limit, least, self.candidates)
            graph.plan.set_range(entry.tensor, exact_range(scales, limit, entry.scheme.channel_axis))
            clipped = float(np.mean(np.abs(rows) > (limit + 0.5) * scales[weight.owner, None].astype(np.float64)))
            ctx.remarks.applied(weight.node, f"scales of '{entry.tensor}' chosen, {clipped:.2%} of its values clipped")
        how = "weighted with the input's variance" if self.data and ctx.calibration is not None else "without samples"
        ctx.remarks.note(None, f"scales of {len(weights)} weights by least squared error, {how}")

    def _importance(
        self, graph: Graph, ctx: Context, weights: list[PlannedWeight]
    ) -> Iterator[tuple[PlannedWeight, NDArray[np.float64]]]:
        """Each weight with h, [out channel, weights of that channel]."""
        if not self.data or ctx.calibration is None:
            yield from ((weight, np.ones((1, 1))) for weight in weights)
            return
        model = float_reference(graph, ctx)
        prefix = Prefix(model, affordable_samples(ctx.calibration, model, ctx), name=ctx.calibration.name)
        for weight in ctx.steps("choosing scales of weights", weights):
            windows = Windows.of(weight.layers[0])
            variance = InputVariance(windows, prefix.samples)
            for layer in weight.layers:
                for value in prefix.fetch([layer.data.name])[0]:
                    variance.update(value)
            found = variance.variance()
            yield weight, np.repeat(found, weight.layers[0].out_channels // len(found), axis=0)
