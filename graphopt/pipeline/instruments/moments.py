"""The model behind every pass that changed it, to be run and compared later: what bisection searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.ir import Graph
from graphopt.pipeline.instrument import Instrument, PassRecord
from graphopt.pipeline.instruments.snapshot import Snapshot
from graphopt.pipeline.passes import Context, Pass
from graphopt.pipeline.remarks import Remark
from graphopt.quant.plan import TensorPlan


@dataclass(frozen=True)
class Moment:
    """The model as it stood behind a pass.

    Attributes:
        index: number of the pass in the pipeline, from 1; 0 for the model as it came.
        pass_: the pass; None for the model as it came.
        snapshot: the model, without the plan.
        remarks: what the pass said.
        plan_from: number of the pass that began the plan which there was when this one ran; None where there was none.
        planned: likewise, tensor → numbers of the passes that wrote its entry of that plan, in order.
    """

    index: int
    pass_: Pass | None
    snapshot: Snapshot
    remarks: tuple[Remark, ...] = ()
    plan_from: int | None = None
    planned: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])


class Moments(Instrument):
    """Keeps the model as it came, and behind each pass that changed it.

    Values that passes replace stay alive; nothing is copied.

    Attributes:
        kept: the moments, in order; the first is the model as it came.
    """

    def __init__(self) -> None:
        self.kept: list[Moment] = []
        self._plan_from: int | None = None
        self._entries: dict[str, TensorPlan] = {}
        self._writers: dict[str, tuple[int, ...]] = {}
        self._said = 0

    def start(self, passes: Sequence[Pass], graph: Graph, ctx: Context) -> None:
        """Begin anew."""
        self.kept = [Moment(0, None, Snapshot(graph))]
        self._forget_plan()

    def before_pass(self, pass_: Pass, index: int, graph: Graph, ctx: Context) -> None:
        """Note whether there is a plan."""
        self._said = len(ctx.remarks.items)
        if not graph.plan:
            self._forget_plan()

    def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
        """Keep the model if it has changed."""
        if record.changed:
            remarks = tuple(ctx.remarks.items[self._said :])
            planned = dict(self._writers)
            self.kept.append(Moment(record.index, pass_, Snapshot(graph), remarks, self._plan_from, planned))
        if graph.plan:
            self._plan_from = self._plan_from or record.index
            self._take_plan(graph, record.index)

    def _forget_plan(self) -> None:
        self._plan_from, self._entries, self._writers = None, {}, {}

    def _take_plan(self, graph: Graph, index: int) -> None:
        for name, entry in graph.plan.tensors.items():
            if self._entries.get(name) is not entry:  # ranges are arrays, which have no equality
                self._writers[name] = (*self._writers.get(name, ()), index)
        self._entries = dict(graph.plan.tensors)
