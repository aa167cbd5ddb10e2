"""Observe the planned activations on the calibration samples and write their ranges into the plan.

    plan: x u8 range ?      →      plan: x u8 range [−2.1, 2.6]

Ranges that are prescribed by the target or known from a constant are left alone. With saved ranges (`--ranges`) the
model isn't run; a planned tensor that they lack is an error that names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from graphopt.calibration import collect, minmax
from graphopt.errors import CalibrationError
from graphopt.ir import Graph, to_proto
from graphopt.pipeline import Context, Pass

NO_SAMPLES = "int8 needs samples to calibrate with; give them with --calibration-data (or a --ranges file)"


@dataclass(frozen=True)
class Calibrate(Pass):
    """Fill the plan's ranges from samples.

    Attributes:
        method: how a range is chosen from what was observed; minmax covers every observed value.
    """

    name: ClassVar[str] = "calibrate"
    summary: ClassVar[str] = "observe the planned activations on samples and set their ranges"

    method: Literal["minmax"] = "minmax"

    def run(self, graph: Graph, ctx: Context) -> None:
        """Run the samples once and set the range of every planned tensor that has none."""
        wanted = [entry.tensor for entry in graph.plan if entry.range is None]
        if not wanted:
            return
        if ctx.ranges is not None:
            missing = [name for name in wanted if name not in ctx.ranges]
            if missing:
                raise CalibrationError(
                    f"the ranges file lacks {len(missing)} of {len(wanted)} tensors, first '{missing[0]}'; "
                    "calibrate again with this version of the model and pipeline"
                )
            for name in wanted:
                graph.plan.set_range(name, ctx.ranges[name])
            ctx.remarks.note(None, f"{len(wanted)} ranges taken from the ranges file")
            return
        if ctx.calibration is None:
            raise CalibrationError(NO_SAMPLES)
        statistics = collect(to_proto(graph), wanted, ctx.calibration, threads=ctx.threads)
        for name in wanted:
            graph.plan.set_range(name, minmax(statistics[name], graph.plan.tensors[name].scheme))
        ctx.remarks.note(None, f"{len(wanted)} tensors observed, method {self.method}")
