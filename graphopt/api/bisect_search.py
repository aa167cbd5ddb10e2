"""Which pass first loses what is demanded: halving over the moments of one run.

What halving keeps true is that the model at `good` holds the demand and the one at `bad` doesn't. So the boundary that
it ends at is real, whatever lies elsewhere; where a later pass makes up for what an earlier one loses, and another one
loses again, it is one of several.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from graphopt.api.metrics import SQNR, Demand, Judge
from graphopt.api.rounding import rounding_demand
from graphopt.calibration import Dataset
from graphopt.errors import AccuracyError
from graphopt.ir import to_proto
from graphopt.pipeline.instruments import Moment
from graphopt.pipeline.passes import Progress
from graphopt.pipeline.spec import passes_to_text
from graphopt.report.bisection import Boundary, Evaluation
from graphopt.report.guarding import value_text
from graphopt.report.model_diff import diff_models


@dataclass(frozen=True)
class Fall:
    """Neighbouring moments, the first of which holds what `judge` demands while the second doesn't."""

    good: Moment
    bad: Moment
    judge: Judge
    values: tuple[float, float]

    @property
    def boundary(self) -> Boundary:
        """As data for the report."""
        assert self.bad.pass_ is not None
        text, lossless = passes_to_text([self.bad.pass_]), self.bad.pass_.lossless
        return Boundary(self.bad.index, self.bad.pass_.name, text, lossless, *self.values, self.good.index)


@dataclass
class Search:
    """Looks for a fall among moments; `evaluations` is what was measured."""

    samples: Dataset
    threads: int | None = None
    progress: Progress | None = None
    evaluations: list[Evaluation] = field(default_factory=list[Evaluation])

    def demanded(self, moments: Sequence[Moment], judge: Judge) -> Fall | None:
        """The fall below what is demanded; None where the last moment holds it.

        Raises:
            AccuracyError: the first doesn't hold it either.
            GraphoptError: a model can't be measured.
        """
        last = self.value(moments[-1], judge)
        if judge.holds(last):
            return None
        first = self.value(moments[0], judge)
        if not judge.holds(first):
            where = "before any pass" if moments[0].index == 0 else f"behind pass {moments[0].index}"
            raise AccuracyError(
                f"{judge.demanded} isn't held by the model as it is {where}: it has "
                f"{value_text(judge.demanded.metric, first)}; its outputs may differ from run to run"
            )
        good, bad, values = 0, len(moments) - 1, (first, last)
        while bad - good > 1:
            middle = (good + bad) // 2
            value = self.value(moments[middle], judge)
            if judge.holds(value):
                good, values = middle, (value, values[1])
            else:
                bad, values = middle, (values[0], value)
        return Fall(moments[good], moments[bad], judge, values)

    def lossless(self, moments: Sequence[Moment]) -> Fall | None:
        """The fall beyond rounding in passes that promise the same outputs.

        Those between two that may lose something are searched against the first model among them.

        Raises:
            GraphoptError: a model can't be measured.
        """
        for group in _lossless_runs(moments):
            demand = rounding_demand(group[-1].snapshot.restore(), self.samples, self.threads)
            reference = to_proto(group[0].snapshot.restore())
            fall = self.demanded(group, Judge(demand, reference, self.samples, self.threads))
            if fall is not None:
                return fall
        pairs = [pair for group in _lossless_runs(moments) for pair in itertools.pairwise(group)]
        return next((fall for pair in pairs if (fall := self._alone(*pair)) is not None), None)

    def _alone(self, good: Moment, bad: Moment) -> Fall | None:
        """The fall of one lossless pass beyond the rounding of what it changed, which is less than that of all weights.

        Without any change the outputs have the same bits.
        """
        before, after = good.snapshot.restore(), bad.snapshot.restore()
        judge = Judge(Demand(SQNR, math.inf), to_proto(before), self.samples, self.threads)
        value = judge.score(to_proto(after))
        if judge.holds(value):
            return None
        changed = diff_models(before, after).graph
        touched = {name for node in (*changed.removed, *(c.before for c in changed.changed)) for name in node.inputs}
        judge.demanded = rounding_demand(before, self.samples, self.threads, touched)
        self._note(bad, value, judge)
        return None if judge.holds(value) else Fall(good, bad, judge, (math.inf, value))

    def result(self, moments: Sequence[Moment], judge: Judge | None) -> float:
        """The value of the last model; without a demand its SQNR against the first."""
        if judge is not None:
            return next(e.value for e in self.evaluations if e.index == moments[-1].index)
        reference, last = (to_proto(moment.snapshot.restore()) for moment in (moments[0], moments[-1]))
        return Judge(Demand(SQNR, 0.0), reference, self.samples, self.threads).score(last)

    def value(self, moment: Moment, judge: Judge) -> float:
        """The value of the model at a moment."""
        value = judge.score(to_proto(moment.snapshot.restore()))
        self._note(moment, value, judge)
        return value

    def _note(self, moment: Moment, value: float, judge: Judge) -> None:
        name = "" if moment.pass_ is None else moment.pass_.name
        self.evaluations.append(Evaluation(moment.index, name, value, str(judge.demanded), judge.holds(value)))
        if self.progress is not None:
            self.progress("bisecting", len(self.evaluations), None)


def _lossless_runs(moments: Sequence[Moment]) -> list[list[Moment]]:
    """Moments with nothing but lossless passes between them; each run has two of them at least."""
    runs = [[moments[0]]]
    for moment in moments[1:]:
        if moment.pass_ is not None and moment.pass_.lossless:
            runs[-1].append(moment)
        else:
            runs.append([moment])
    return [run for run in runs if len(run) > 1]
