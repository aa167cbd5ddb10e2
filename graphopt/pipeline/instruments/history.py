"""What every pass changed, node by node: what a node's life and pages that step through passes are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.analysis.graph_diff import GraphDiff, diff_outlines
from graphopt.ir import Graph
from graphopt.ir.outline import Outline, outline
from graphopt.pipeline.instrument import Instrument, PassRecord
from graphopt.pipeline.passes import Context, Pass
from graphopt.pipeline.remarks import Remark


@dataclass(frozen=True)
class Step:
    """One pass.

    Attributes:
        record: its figures.
        diff: what it changed in the graph; None when it changed nothing there.
        after: the graph behind it.
        remarks: what it said.
    """

    record: PassRecord
    diff: GraphDiff | None
    after: Outline
    remarks: tuple[Remark, ...]


class History(Instrument):
    """Keeps the graph's outline before the first pass and behind each one.

    An outline refers to values and doesn't copy them, but keeps them alive: of weights that passes replace, each
    version. A pass that leaves the graph's revision alone costs nothing.

    Attributes:
        before: the graph as it came.
        steps: one for each pass that has run.
    """

    def __init__(self) -> None:
        self.before: Outline | None = None
        self.steps: list[Step] = []
        self._said = 0

    def start(self, passes: Sequence[Pass], graph: Graph, ctx: Context) -> None:
        """Begin anew."""
        self.before, self.steps, self._said = outline(graph), [], len(ctx.remarks.items)

    def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
        """Take what has changed."""
        last = self.last
        now = outline(graph) if record.changed else last
        diff = diff_outlines(last, now) if record.changed else None
        self.steps.append(Step(record, diff or None, now, tuple(ctx.remarks.items[self._said :])))
        self._said = len(ctx.remarks.items)

    @property
    def last(self) -> Outline:
        """The graph as it is behind the last pass."""
        assert self.before is not None, "the run hasn't begun"
        return self.steps[-1].after if self.steps else self.before
