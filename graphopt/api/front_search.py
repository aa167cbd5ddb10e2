"""Points of the front of error and cost, compiled and measured as they are asked for.

The front comes from one measurement of what each part loses; what a point really loses is only known once it was
compiled and run. With n points about log2(n) are tried, the cheaper half first given up, then the dearer one. Where
passes fit weights and biases, points are told apart with those that runs before have fitted, and the one that is taken
is fitted anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from graphopt.api.metrics import Judge, lowest_sqnr
from graphopt.api.replanning import Compiled, Watch, compile_assigned
from graphopt.ir import to_proto
from graphopt.ir.to_proto import value_bytes
from graphopt.pipeline import Context
from graphopt.pipeline.passes import Progress
from graphopt.report.precision import Candidate

if TYPE_CHECKING:  # the solvers behind assignment bring scipy in
    from graphopt.analysis.precision.record import PrecisionChoice
    from graphopt.analysis.precision.types import Solution

FLOAT32, INT8 = "float32", "int8"


@dataclass(frozen=True)
class Trial:
    """A compiled candidate.

    Attributes:
        candidate: what was measured.
        compiled: the model.
        point: its place in the front; None where it isn't one of its points.
        fitted: with weights and biases that were fitted for it, if any were.
    """

    candidate: Candidate
    compiled: Compiled
    point: int | None = None
    fitted: bool = True


class FrontSearch:
    """Compiles points of the front that the first run has found, and measures them."""

    def __init__(self, first: Compiled, watch: Watch, ctx: Context, judge: Judge, progress: Progress | None) -> None:
        from graphopt.analysis.precision.budget import float_cost

        assert first.precision is not None
        assert watch.assigning is not None
        self.first, self.watch, self.ctx, self.judge, self.progress = first, watch, ctx, judge, progress
        self.record: PrecisionChoice = first.precision
        self.points = self.record.points
        self.chosen = next(place for place, point in enumerate(self.points) if point is self.record.chosen)
        self.float_cost = float_cost(self.record.problem.regions, self.record.problem.costs)
        self.macs = judge.macs(watch.assigning.restore())
        self.tried: dict[int, Trial] = {}
        self.reference_accuracy: float | None = None

    def trial(self, index: int) -> Trial:
        """A point, compiled and measured once; the one that the first run has chosen is compiled already."""
        if index not in self.tried:
            self.report(self.name(index))
            fitted = index == self.chosen or not self.watch.fitted
            compiled = self.first if index == self.chosen else self.compile(index, fit=not self.watch.fitted)
            self.tried[index] = Trial(self.candidate(self.name(index), compiled), compiled, index, fitted)
        return self.tried[index]

    def cheapest(self, low: int, high: int) -> Trial | None:
        """The cheapest point from number `low` to `high` above the floor, found by halving; None without one."""
        found: Trial | None = None
        while low <= high:
            middle = (low + high) // 2
            trial = self.trial(middle)
            if trial.candidate.holds:
                found, high = trial, middle - 1
            else:
                low = middle + 1
        return found

    def settled(self, trial: Trial) -> Trial:
        """The same point with weights and biases fitted for it, measured again."""
        if trial.fitted or trial.point is None:
            return trial
        self.report(f"{trial.candidate.name}, fitted")
        compiled = self.compile(trial.point, fit=True)
        again = self.candidate(trial.candidate.name, compiled)
        before = trial.candidate
        again = replace(again, latency=before.latency, within_budget=before.within_budget)
        self.tried[trial.point] = Trial(again, compiled, trial.point)
        return self.tried[trial.point]

    def in_8_bits(self) -> Compiled:
        """Everything in 8 bits that was planned so, but for what may not be: the user's rules, what is forbidden."""
        from graphopt.analysis.precision.problem import readers_of
        from graphopt.analysis.precision.regions import realised

        assert self.watch.assigning is not None
        problem = self.record.problem
        planned = realised(self.watch.assigning.restore(), problem.regions)
        left = problem.choices
        wanted = {n: p if p in left[n] else FLOAT32 if FLOAT32 in left[n] else left[n][0] for n, p in planned.items()}
        readers = dict(readers_of(problem))
        needy = [r.name for r in problem.regions.regions if r.needs_reader and FLOAT32 in left[r.name]]
        # From the end, so that who has lost its reader is itself none any more.
        for name in reversed(needy):
            if wanted[name] == INT8 and all(wanted[reader] != INT8 for reader in readers[name]):
                wanted[name] = FLOAT32
        return compile_assigned(self.first, self.watch, self.ctx, None if wanted == planned else wanted)

    def compile(self, index: int, *, fit: bool) -> Compiled:
        """A point of the front as a model."""
        return compile_assigned(self.first, self.watch, self.ctx, self.points[index].precisions, fit=fit)

    def candidate(self, name: str, compiled: Compiled) -> Candidate:
        """What a model loses, and what it takes by the tables."""
        value, agreement = self.judge.compare(to_proto(compiled.graph))
        self.reference_accuracy = agreement.reference_accuracy
        solution = self.solution(compiled)
        return Candidate(
            name=name,
            shares=self.shares(compiled),
            accuracy=agreement.other_accuracy,
            sqnr_db=lowest_sqnr(agreement),
            value=value,
            holds=self.judge.holds(value),
            weight_bytes=value_bytes(compiled.graph),
            cost=solution.cost,
            cost_share=solution.cost / self.float_cost if self.float_cost > 0 else None,
        )

    def solution(self, compiled: Compiled) -> Solution:
        """The assignment that a model really has, with its error and cost by the tables."""
        from graphopt.analysis.precision.problem import evaluate
        from graphopt.analysis.precision.regions import realised

        problem = self.record.problem
        return evaluate(problem, realised(compiled.graph, problem.regions), proven=False)

    def shares(self, compiled: Compiled) -> dict[str, float]:
        """Precision → its part of the multiply-accumulates of the layers, the largest first."""
        return mac_shares(self.macs, compiled)

    def name(self, index: int) -> str:
        """What a point is called."""
        return f"mixed {index + 1} of {len(self.points)}"

    def report(self, what: str) -> None:
        """Say what is going on."""
        if self.progress is not None:
            self.progress(f"measuring {what}", 0, None)


def mac_shares(macs: Mapping[str, int | None], compiled: Compiled) -> dict[str, float]:
    """Precision → its part of the multiply-accumulates; nothing where some aren't known, or there are none."""
    plan = compiled.graph.plan
    sums: dict[str, int] = {}
    for node, count in macs.items():
        precision = plan.precisions.get(node, "int8" if node in plan.quantized_nodes else FLOAT32)
        if count is None:
            return {}
        sums[precision] = sums.get(precision, 0) + count
    total = sum(sums.values())
    return {name: sums[name] / total for name in sorted(sums, key=lambda n: -sums[n]) if sums[name]} if total else {}
