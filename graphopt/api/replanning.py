"""Planning a second time: what it takes from the first run, and the run from there on.

Passes before planning aren't run again, and ranges that calibration has found are used again: only a tensor that
nobody wanted before is observed. While plans are only compared, weights and biases that passes have fitted are used
again, too. Another assignment of precisions goes on from the plan that the first one was made on.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from graphopt.analysis.placement import place
from graphopt.api.choice import ASSIGNING, DEPEND_ON_CHANNELS
from graphopt.api.fitted import FITTING, Fitted, UseFitted, fitted_layers
from graphopt.backends.layer_errors import ErrorReport, measure_layers
from graphopt.calibration import Dataset
from graphopt.ir import Graph
from graphopt.ir.ops import MOVES_VALUES
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.pipeline import Context, Instrument, Pass, PassManager, PassRecord, Remark, Remarks
from graphopt.pipeline.instruments import History, Reproducer, Verify
from graphopt.pipeline.instruments.snapshot import Snapshot
from graphopt.quant import QuantPlan, Range

if TYPE_CHECKING:  # assignment brings scipy in
    from graphopt.analysis.precision.record import PrecisionChoice
    from graphopt.analysis.precision.types import Assignment

# Enough for an order of layers; the result is measured on all samples.
_REPORT_SAMPLES = 32


@dataclass(frozen=True)
class Compiled:
    """A compiled graph, and how it came about.

    Attributes:
        graph: the result.
        passes: the pipeline that makes it.
        records: of its passes that have run, by their numbers in the pipeline.
        remarks: what they said.
        precision: what was assigned, where something was.
        history: what each pass changed; None where nobody keeps it.
    """

    graph: Graph
    passes: tuple[Pass, ...]
    records: tuple[PassRecord, ...]
    remarks: Remarks
    precision: PrecisionChoice | None = None
    history: History | None = None


@dataclass(frozen=True)
class Moment:
    """A run as it stood before one of its passes.

    Attributes:
        snapshot: of the graph.
        plan: what it was annotated with.
        index: how many passes there were before.
        remarks: what they had said.
    """

    snapshot: Snapshot
    plan: QuantPlan
    index: int
    remarks: tuple[Remark, ...]

    @staticmethod
    def now(index: int, graph: Graph, ctx: Context) -> Moment:
        """Before pass number `index`."""
        return Moment(Snapshot(graph), graph.plan.copy(), index - 1, tuple(ctx.remarks.items))

    def restore(self) -> Graph:
        """A new graph, equal to the one of that moment, and its plan."""
        graph = self.snapshot.restore()
        graph.facts.plan = self.plan.copy()
        return graph


class Watch(Instrument):
    """Keeps what planning anew needs: the graph at some moments, the ranges and the weights that were found.

    Attributes:
        simplified: before the first pass that prepares or plans 8 bits.
        planning: before the graph was planned.
        assigning: before precisions were assigned.
        ranges, fitted: what was found since.
    """

    def __init__(self) -> None:
        self.simplified: Moment | None = None
        self.planning: Moment | None = None
        self.assigning: Moment | None = None
        self.ranges: dict[str, Range] = {}
        self.fitted: dict[str, Fitted] = {}

    def before_pass(self, pass_: Pass, index: int, graph: Graph, ctx: Context) -> None:
        """Take the graph as it is at the moments."""
        if self.simplified is None and pass_.name in DEPEND_ON_CHANNELS:
            self.simplified = Moment.now(index, graph, ctx)
        if self.planning is None and isinstance(pass_, PlanQuantization):
            self.planning = Moment.now(index, graph, ctx)
        if self.assigning is None and pass_.name == ASSIGNING:
            self.assigning = Moment.now(index, graph, ctx)

    def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
        """Take the ranges (those of constants follow from the plan), and what was fitted."""
        if isinstance(pass_, Calibrate):
            constants = {c.name for c in graph.constants}
            self.ranges |= {e.tensor: e.range for e in graph.plan if e.range is not None and e.tensor not in constants}
        elif isinstance(pass_, FITTING):
            self.fitted |= fitted_layers(graph)

    def errors(self, quantized: Graph, samples: Dataset | None, threads: int | None) -> ErrorReport | None:
        """What each layer of a result of this run loses; None where nothing was planned, or without samples."""
        if self.planning is None or samples is None:
            return None
        return measure_layers(self.planning.restore(), quantized, samples.limited(_REPORT_SAMPLES), threads=threads)


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
    assert watch.planning is not None  # nothing is turned back where nothing was planned
    patterns = tuple(glob.escape(name) for name in turned)  # a name is no pattern, whatever is in it
    passes = tuple(
        replace(p, keep_float=(*p.keep_float, *patterns)) if isinstance(p, PlanQuantization) else p
        for p in first.passes
    )
    again: list[Pass] = []
    for pass_ in passes[watch.planning.index :]:
        again += [pass_, UseRanges(watch.ranges)] if isinstance(pass_, PlanQuantization) else [pass_]
    return _go_on(replace(first, passes=passes), watch, ctx, watch.planning, again, fit)


def compile_assigned(
    first: Compiled, watch: Watch, ctx: Context, assignment: Assignment | None, *, fit: bool = True
) -> Compiled:
    """Materialise `first` again with another assignment of precisions; None: all in 8 bits that can be.

    Without `fit`, weights and biases are those that runs before have fitted.
    """
    from graphopt.passes.assign_precision import UseAssignment

    assert watch.assigning is not None
    index = watch.assigning.index
    again = [] if assignment is None else [UseAssignment(assignment)]
    rest = first.passes[index + 1 :]
    passes = (*first.passes[:index], *rest) if assignment is None else first.passes
    return _go_on(replace(first, passes=passes), watch, ctx, watch.assigning, [*again, *rest], fit)


def simplified(first: Compiled, watch: Watch) -> Compiled:
    """What `first` was before anything prepared or planned 8 bits."""
    moment = watch.simplified
    assert moment is not None
    graph = _with_facts(moment.restore(), first.graph)
    history = None if first.history is None else first.history.until(moment.index)
    remarks = Remarks(list(moment.remarks))
    passes = first.passes[: moment.index]
    return Compiled(graph, passes, _records(first, moment.index), remarks, history=history)


def _go_on(first: Compiled, watch: Watch, ctx: Context, moment: Moment, passes: Sequence[Pass], fit: bool) -> Compiled:
    """Run `passes` on the graph of a moment of the first run."""
    again: list[Pass] = []
    for pass_ in passes:
        if fit or not isinstance(pass_, FITTING):
            again.append(pass_)
        elif not any(isinstance(p, UseFitted) for p in again):
            again.append(UseFitted(watch.fitted))
    graph = _with_facts(moment.restore(), first.graph)
    remarks = Remarks(list(moment.remarks))
    ctx = replace(ctx, remarks=remarks, reference=None, data=None)
    own = [number for number, pass_ in enumerate(again, 1) if not isinstance(pass_, UseRanges)]
    numbers = {number: moment.index + place for place, number in enumerate(own, 1)}
    history = None if first.history is None else first.history.until(moment.index, numbers)
    watching: tuple[Instrument, ...] = (watch, Reproducer(), Verify())
    records = PassManager(again, watching if history is None else (history, *watching)).run(graph, ctx)
    new = (replace(record, index=numbers[record.index]) for record in records if record.index in numbers)
    return Compiled(graph, first.passes, (*_records(first, moment.index), *new), remarks, ctx.precision, history)


def _with_facts(graph: Graph, original: Graph) -> Graph:
    """A restored graph with what is known about the files that the model came from."""
    graph.facts.notes, graph.facts.source_files = list(original.facts.notes), original.facts.source_files
    graph.facts.has_external_data = original.facts.has_external_data
    return graph


def _records(first: Compiled, index: int) -> tuple[PassRecord, ...]:
    return tuple(record for record in first.records if record.index <= index)


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
