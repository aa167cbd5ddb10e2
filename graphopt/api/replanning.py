"""Planning a second time: what it takes from the first run, and the run from there on.

Passes before planning aren't run again, and ranges that calibration has found are used again: only a tensor that
nobody wanted before is observed. While plans are only compared, weights and biases that passes have fitted are used
again, too.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from graphopt.analysis.placement import place
from graphopt.api.fitted import FITTING, Fitted, UseFitted, fitted_layers
from graphopt.backends.layer_errors import ErrorReport, measure_layers
from graphopt.calibration import Dataset
from graphopt.ir import Graph
from graphopt.ir.ops import MOVES_VALUES
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.pipeline import Context, Instrument, Pass, PassManager, PassRecord, Remarks
from graphopt.pipeline.instruments import Reproducer, Verify
from graphopt.pipeline.instruments.snapshot import Snapshot
from graphopt.quant import Range

# Enough for an order of layers; the result is measured on all samples.
_REPORT_SAMPLES = 32


@dataclass(frozen=True)
class Compiled:
    """A compiled graph, and how it came about."""

    graph: Graph
    passes: tuple[Pass, ...]
    records: tuple[PassRecord, ...]
    remarks: Remarks


class Watch(Instrument):
    """Keeps what planning anew needs: the graph before it was planned, the ranges and the weights that were found."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.index = 0
        self.remarks = 0
        self.ranges: dict[str, Range] = {}
        self.fitted: dict[str, Fitted] = {}

    def before_pass(self, pass_: Pass, index: int, graph: Graph, ctx: Context) -> None:
        """Take the graph as it is before it is planned."""
        if isinstance(pass_, PlanQuantization) and self.snapshot is None:
            self.snapshot, self.index, self.remarks = Snapshot(graph), index - 1, len(ctx.remarks.items)

    def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
        """Take the ranges (those of constants follow from the plan), and what was fitted."""
        if isinstance(pass_, Calibrate):
            constants = {c.name for c in graph.constants}
            self.ranges |= {e.tensor: e.range for e in graph.plan if e.range is not None and e.tensor not in constants}
        elif isinstance(pass_, FITTING):
            self.fitted |= fitted_layers(graph)

    def errors(self, quantized: Graph, samples: Dataset | None, threads: int | None) -> ErrorReport | None:
        """What each layer of a result of this run loses; None where nothing was planned, or without samples."""
        if self.snapshot is None or samples is None:
            return None
        return measure_layers(self.snapshot.restore(), quantized, samples.limited(_REPORT_SAMPLES), threads=threads)


@dataclass(frozen=True)
class UseRanges(Pass):
    """Fills in ranges that are known from before, so that `calibrate` observes only what is new."""

    name: ClassVar[str] = "use-ranges"
    summary: ClassVar[str] = "fill in ranges that are known from before"

    ranges: Mapping[str, Range]

    def run(self, graph: Graph, ctx: Context) -> None:
        """Set the range of each planned tensor that has none and is known."""
        known = [e.tensor for e in graph.plan if e.range is None and e.tensor in self.ranges]
        for tensor in known:
            graph.plan.set_range(tensor, self.ranges[tensor])
        ctx.remarks.note(None, f"{len(known)} ranges are those of the first calibration")


def compile_again(
    first: Compiled, watch: Watch, ctx: Context, turned: Collection[str], *, fit: bool = True
) -> Compiled:
    """Plan and materialise `first` again, with the nodes `turned` in float.

    Without `fit`, weights and biases are those that the first run has fitted.
    """
    assert watch.snapshot is not None  # nothing is turned back where nothing was planned
    patterns = tuple(glob.escape(name) for name in turned)  # a name is no pattern, whatever is in it
    passes = tuple(
        replace(p, keep_float=(*p.keep_float, *patterns)) if isinstance(p, PlanQuantization) else p
        for p in first.passes
    )
    again: list[Pass] = []
    for pass_ in passes[watch.index :]:
        if fit or not isinstance(pass_, FITTING):
            again += [pass_, UseRanges(watch.ranges)] if isinstance(pass_, PlanQuantization) else [pass_]
        elif not any(isinstance(p, UseFitted) for p in again):
            again.append(UseFitted(watch.fitted))
    graph, old = watch.snapshot.restore(), first.graph.facts
    graph.facts.notes, graph.facts.source_files = list(old.notes), old.source_files
    graph.facts.has_external_data = old.has_external_data
    remarks = Remarks(first.remarks.items[: watch.remarks])
    ctx = replace(ctx, remarks=remarks, reference=None, data=None)
    records = PassManager(again, (Reproducer(), Verify())).run(graph, ctx)
    kept = (*first.records[: watch.index], *(r for r in records if r.name != UseRanges.name))
    return Compiled(graph, passes, kept, remarks)


def writers_before(graph: Graph, ctx: Context) -> dict[str, list[str]]:
    """Node → the nodes whose integer kernels write what it reads, perhaps behind operators that move values."""
    if ctx.target is None:
        return {}
    writers = place(graph, ctx.target, lambda _: False).writers
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        pending = [t for _, t in node.present_inputs()]
        while pending:
            tensor = pending.pop()
            producer = graph.producer(tensor)
            if tensor in writers:
                found.setdefault(node.name, []).append(writers[tensor].name)
            elif producer is not None and producer.is_op(*MOVES_VALUES):
                pending += [t for _, t in producer.present_inputs()]
    return found
