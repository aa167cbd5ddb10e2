"""Observe the planned activations on the calibration samples and write their ranges into the plan.

    plan: x u8 range ?      →      plan: x u8 range [−2.1, 2.6]

Ranges that are prescribed by the target or known from a constant are left alone. What comes from integers (rows of an
embedding, one-hot vectors, bytes) gets the range of all that it can be, not of the rows in the samples. 16 bits cover
twice what was seen, whatever the method. With saved ranges (`--ranges`) the model isn't run; a planned tensor that they
lack is an error that names it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from graphopt.analysis.integer_values import integer_values, is_finite
from graphopt.analysis.response import response
from graphopt.calibration import Statistic, collect
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.observer import KINDS, Kind
from graphopt.calibration.solvers import Method, solver
from graphopt.calibration.weights import detached
from graphopt.errors import CalibrationError
from graphopt.ir import Graph
from graphopt.pipeline import Context, Pass
from graphopt.quant import Range, Scheme

_KIND_OF: dict[type[Statistic], Kind] = {statistic: kind for kind, statistic in KINDS.items()}
# A ResNet-20 that was calibrated on 16 images gained 22 dB on others; 1.25 to 8 did the same on four models.
_HEADROOM = 2.0
NO_SAMPLES = "int8 needs samples to calibrate with; give them with --calibration-data (or a --ranges file)"


@dataclass(frozen=True)
class Calibrate(Pass):
    """Fill the plan's ranges from samples.

    Attributes:
        method: how a range is chosen from what was observed: minmax covers every value, ema follows the extremes of
            the samples, percentile leaves out tails, kl keeps the distribution's shape (TensorRT's entropy method), mse
            has the least squared error (the best mean SQNR on real models), auto takes the
            widest of them that costs next to nothing.
        percentile: the share of values that method percentile covers, in percent.
    """

    name: ClassVar[str] = "calibrate"
    summary: ClassVar[str] = "observe the planned activations on samples and set their ranges"

    method: Literal["minmax", "ema", "percentile", "kl", "mse", "auto"] = "mse"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile is {self.percentile}; expected more than 50 and at most 100 percent")

    def solver(self) -> Method:
        """The chosen method, with its parameter."""
        return solver(f"percentile{{p={self.percentile!r}}}" if self.method == "percentile" else self.method)

    def run(self, graph: Graph, ctx: Context) -> None:
        """Run the samples once and set the range of every planned tensor that has none."""
        plan = graph.plan
        unknown = plan.without_range()
        wanted = list(dict.fromkeys(entry.tensor for entry in unknown))
        if not wanted:
            return
        if ctx.ranges is not None:
            missing = [name for name in wanted if name not in ctx.ranges]
            if missing:
                named = ", ".join(f"'{name}'" for name in missing[:5]) + (", …" if len(missing) > 5 else "")
                raise CalibrationError(
                    f"the ranges file lacks {len(missing)} of {len(wanted)} tensors ({named}); "
                    "calibrate again with this version of the model and pipeline"
                )
            for entry in unknown:
                plan.set_range_of(entry, ctx.ranges[entry.tensor])
            ctx.remarks.note(None, f"{len(wanted)} ranges taken from the ranges file")
            return
        if ctx.calibration is None:
            raise CalibrationError(NO_SAMPLES)
        method = self.solver()
        kind = Histogram if ctx.histograms and Histogram in method.takes else method.needs
        statistics = collect(
            detached(graph),
            wanted,
            ctx.calibration,
            kind=_KIND_OF[kind],
            threads=ctx.threads,
            providers=ctx.resources.providers or None,
            memory_budget=ctx.resources.memory_budget,
            batch_size=ctx.resources.batch_size,
            workers=ctx.resources.workers,
            checkpoint=ctx.resources.checkpoint,
            data=ctx.data,
            note=lambda text: ctx.remarks.note(None, text),
        )
        tensors = graph.tensors()
        for entry in ctx.steps("solving ranges", unknown):
            name = entry.tensor
            solve, statistic = method.through, statistics[name]
            through = None if solve is None or name not in tensors else response(graph, tensors[name])
            try:
                if entry.scheme.bits == 16:
                    found = _with_headroom(statistic, entry.scheme, method)
                elif solve is not None and through is not None:
                    found = solve(statistic, entry.scheme, through)
                else:
                    found = method.solve(statistic, entry.scheme)
            except CalibrationError as error:
                raise CalibrationError(f"tensor '{name}': {error}") from error
            plan.set_range_of(entry, found)
        _cover_integers(graph, wanted, ctx)
        ctx.statistics.update(statistics)
        ctx.remarks.note(None, f"{len(wanted)} tensors observed, method {self.method}")


def _with_headroom(statistic: Statistic, scheme: Scheme, method: Method) -> Range:
    """The range of 16 bits: nothing is gained by clipping what was seen, and one bit is spared for what wasn't."""
    extremes = solver("minmax")
    found = (extremes if isinstance(statistic, extremes.takes) else method).solve(statistic, scheme)
    return Range(_HEADROOM * np.minimum(found.low, 0.0), _HEADROOM * np.maximum(found.high, 0.0))


def _cover_integers(graph: Graph, wanted: Collection[str], ctx: Context) -> None:
    """Widen the ranges of values that come from integers to what they can be: samples show some ids, rows, pixels."""
    known = {t.name: bounds for t, bounds in integer_values(graph).items() if is_finite(bounds)}
    for entry in (*graph.plan, *graph.plan.second.values()):
        if entry.tensor not in known or entry.tensor not in wanted or entry.range is None:
            continue
        low, high = known[entry.tensor]
        covered = entry.range.union(Range.of(low, high))
        if (covered.low, covered.high) != (entry.range.low, entry.range.high):
            graph.plan.set_range_of(entry, covered)
            text = f"the range of '{entry.tensor}', which comes from integers, is all it can be: {low:g} to {high:g}"
            ctx.remarks.note(None, text)
