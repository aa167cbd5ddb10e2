"""Observe the planned activations on the calibration samples and write their ranges into the plan.

    plan: x u8 range ?      →      plan: x u8 range [−2.1, 2.6]

Ranges that are prescribed by the target or known from a constant are left alone. What comes from integers (rows of an
embedding, one-hot vectors, bytes) gets the range of all that it can be, not of the rows in the samples. With saved
ranges (`--ranges`) the model isn't run; a planned tensor that they lack is an error that names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

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
from graphopt.quant import Range

_KIND_OF: dict[type[Statistic], Kind] = {statistic: kind for kind, statistic in KINDS.items()}
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
        wanted = [entry.tensor for entry in graph.plan if entry.range is None]
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
            for name in wanted:
                graph.plan.set_range(name, ctx.ranges[name])
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
        for name in wanted:
            through = None if method.through is None or name not in tensors else response(graph, tensors[name])
            statistic, scheme = statistics[name], graph.plan.tensors[name].scheme
            try:
                found = method.through(statistic, scheme, through) if through else method.solve(statistic, scheme)
            except CalibrationError as error:
                raise CalibrationError(f"tensor '{name}': {error}") from error
            graph.plan.set_range(name, found)
        _cover_integers(graph, wanted, ctx)
        ctx.statistics.update(statistics)
        ctx.remarks.note(None, f"{len(wanted)} tensors observed, method {self.method}")


def _cover_integers(graph: Graph, wanted: list[str], ctx: Context) -> None:
    """Widen the ranges of values that come from integers to what they can be: samples show some ids, rows, pixels."""
    known = {t.name: bounds for t, bounds in integer_values(graph).items() if is_finite(bounds)}
    for name in wanted:
        found = graph.plan.tensors[name].range
        if name not in known or found is None:
            continue
        covered = found.union(Range.of(*known[name]))
        if (covered.low, covered.high) != (found.low, found.high):
            graph.plan.set_range(name, covered)
            low, high = known[name]
            ctx.remarks.note(
                None, f"the range of '{name}', which comes from integers, is all it can be: {low:g} to {high:g}"
            )
