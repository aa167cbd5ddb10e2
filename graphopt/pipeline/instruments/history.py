"""What every pass changed, node by node: what a node's life and pages that step through passes are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
        pass_: the pass.
        record: its figures.
        diff: what it changed in the graph; None when it changed nothing there.
        after: the graph behind it.
        remarks: what it said.
    """

    pass_: Pass
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

    def __init__(self, before: Outline | None = None) -> None:
        self.before = before
        self.steps: list[Step] = []
        self._numbers: Mapping[int, int] | None = None
        self._now = before
        self._revision = 0
        self._said = 0

    def until(self, index: int, numbers: Mapping[int, int] | None = None) -> History:
        """A history of its own with the steps up to pass number `index`, which a run from there on goes on with.

        Args:
            index: the pass; 0 for the graph as it came.
            numbers: number of a pass in that run → its number in the pipeline. What passes without one did is shown
                with the next one's.
        """
        branch = History(self.before)
        branch.steps = [step for step in self.steps if step.record.index <= index]
        branch._now = branch.steps[-1].after if branch.steps else self.before
        branch._numbers = {} if numbers is None else numbers
        return branch

    def start(self, passes: Sequence[Pass], graph: Graph, ctx: Context) -> None:
        """Begin anew, or go on from the graph as it is now."""
        self._now = outline(
            graph
        )  # a restored graph has arrays of its own: its constants aren't those of the last step
        if self._numbers is None:
            self.before, self.steps = self._now, []
        self._revision, self._said = graph.revision, len(ctx.remarks.items)

    def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
        """Take what has changed."""
        number = record.index if self._numbers is None else self._numbers.get(record.index)
        if number is None:
            return
        last = self.last
        changed = graph.revision != self._revision
        now = outline(graph) if changed else last
        diff = diff_outlines(last, now) if changed else None
        said = tuple(ctx.remarks.items[self._said :])
        self.steps.append(Step(pass_, replace(record, index=number), diff or None, now, said))
        self._now, self._revision, self._said = now, graph.revision, len(ctx.remarks.items)

    @property
    def last(self) -> Outline:
        """The graph as it is behind the last pass."""
        assert self._now is not None, "the run hasn't begun"
        return self._now
