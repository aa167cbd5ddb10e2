"""Residual sums whose grid has next to no steps for most values, and which quantized reads are to blame for it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from graphopt.analysis.conditioning import Amplified
from graphopt.analysis.quantized_sums import quantized_sums
from graphopt.calibration import Statistic
from graphopt.calibration.histogram import Histogram
from graphopt.ir import Graph, Node
from graphopt.quant import solve_params

# A value of fewer steps is known to 12 dB or less.
_FEW_STEPS = 4
# Grids finer than the coarsest by this factor add 12 dB less noise.
_FINER = 4


def behind_coarse_sums(graph: Graph, statistics: Mapping[str, Statistic]) -> list[Node]:
    """Dense layers that read a residual sum most of whose values have next to no steps on its grid.

    Whether that matters to them is measured. Without a histogram it is measured for all.
    """
    ranges = graph.plan.solved_ranges()
    found: list[Node] = []
    for tensor, readers in quantized_sums(graph).items():
        seen = statistics.get(tensor.name)
        scale = solve_params(ranges[tensor.name], graph.plan.tensors[tensor.name].scheme).scale
        if not isinstance(seen, Histogram) or _share_below(seen, _FEW_STEPS * float(scale)) > 0.5:
            found += readers
    return found


def _share_below(seen: Histogram, magnitude: float) -> float:
    """The share of values smaller than `magnitude`, of those that aren't zero."""
    counts = seen.magnitudes()
    bins = min(len(counts), math.ceil(magnitude / seen.width)) if seen.width else 0
    return float(counts[:bins].sum() / max(counts.sum(), 1))


def coarsest_reads(graph: Graph, finding: Amplified) -> list[tuple[Node, int]]:
    """The reads that a finding's noise comes from; behind residual sums those of far finer grids don't count."""
    if not finding.is_dense:
        return list(finding.reads)
    entries = {(e.node, e.index): entry for entry in graph.plan for e in entry.edges}
    ranges = graph.plan.solved_ranges()
    steps: dict[tuple[Node, int], float] = {}
    for node, index in finding.reads:
        entry = entries[node.name, index]
        steps[node, index] = float(np.max(solve_params(ranges[entry.tensor], entry.scheme).scale))
    limit = max(steps.values(), default=0.0) / _FINER
    return [read for read, step in steps.items() if step >= limit]
