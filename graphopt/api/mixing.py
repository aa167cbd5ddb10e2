"""Preset `mixed`: the original, the simplified model, all in 8 bits and points of the front, side by side; one ships.

    compile ─▶ front ─▶ the cheapest point above the floor      all measured on the samples, and timed
               int8, float, the original                   ─▶   in the engine, each in turns with the original

`preference` says which of them it is; never one that is slower than the original. With a budget the search begins at
the point that was chosen for it, and goes on to dearer ones only as far as the floor asks for it. A pipeline that isn't
the preset ships the pass's own choice, or, where that is below what is demanded, the next point that isn't.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from onnx import ModelProto

from graphopt.api.choice import ASSIGNING
from graphopt.api.front_search import FLOAT32, FrontSearch, Trial
from graphopt.api.metrics import SQNR, TOP1, Demand, Judge
from graphopt.api.preference import FLOAT, INT8, ORIGINAL, Preferred, is_slower, prefer
from graphopt.api.replanning import Compiled, Watch, simplified
from graphopt.api.stopwatch import Stopwatch
from graphopt.backends.engines import Engine, Model, find_engine
from graphopt.backends.latency import Latency
from graphopt.calibration import Dataset
from graphopt.errors import AccuracyError, GraphoptError
from graphopt.ir import load, to_proto
from graphopt.ir.outline import outline
from graphopt.ir.to_proto import attribute_bytes, value_bytes
from graphopt.pipeline import Context, Remarks
from graphopt.pipeline.instruments import History
from graphopt.pipeline.passes import Progress
from graphopt.report.measure import runnable
from graphopt.report.precision import Candidate, Mixed
from graphopt.targets import Target

if TYPE_CHECKING:
    from graphopt.analysis.precision.budget import Budget
    from graphopt.analysis.precision.record import PrecisionChoice

DEFAULT_DROP = 0.5
"""Points of top-1 that mixed precision may lose where nothing is demanded and the samples have labels."""
DEFAULT_SQNR_DB = 20.0
"""The least SQNR where they have none: the error has a hundredth of the signal's power."""

# Neighbours of the point found that are timed, too, where it turns out slower than its cost promises.
_NEIGHBOURS = 2
# A latency budget is met by what may be within it, but no further off than this part.
_SLACK = 0.05
TIMING_SECONDS = 2.5
"""For each candidate that is timed."""


class Clock(Protocol):
    """What times candidates against the original: `api.stopwatch.Stopwatch`."""

    def time(self, model: ModelProto, *, anew: bool = False) -> Latency:
        """Raises UnsupportedError where the engine can't load it. `anew`: with the original opened once more, too."""
        ...


def floor_of(demanded: Demand | None, samples: Dataset) -> Demand:
    """What the result must hold: what is demanded, else the default for these samples."""
    if demanded is not None:
        return demanded
    return Demand(SQNR, DEFAULT_SQNR_DB) if samples.labels is None else Demand(TOP1, DEFAULT_DROP)


@dataclass(frozen=True)
class Terms:
    """What a result in mixed precision is held to, and what is said about it.

    Attributes:
        floor_given: the user demanded it.
        on_calibration_data: it is measured on calibration samples.
        keep_original: the original may ship; not where channels were to be removed.
    """

    floor_given: bool
    on_calibration_data: bool
    keep_original: bool = True


class Mixing:
    """Finds what ships, beginning with `first`, in whose run precisions were assigned while `watch` watched."""

    def __init__(
        self, first: Compiled, watch: Watch, ctx: Context, judge: Judge, terms: Terms, progress: Progress | None = None
    ) -> None:
        self.first, self.watch, self.ctx, self.judge, self.terms = first, watch, ctx, judge, terms
        self.search = FrontSearch(first, watch, ctx, judge, progress)
        self.budget = budget_of(first)
        self.trials: list[Trial] = []
        self.keep_original = terms.keep_original
        self.notes: list[str] = []

    def hold(self) -> tuple[Compiled, Mixed]:
        """The first run's own choice, or the next point of the front that holds what is demanded.

        Raises:
            AccuracyError: none does.
        """
        search, last = self.search, len(self.search.points) - 1
        trial: Trial | None = search.trial(search.chosen)
        if not trial.candidate.holds:
            trial = search.cheapest(search.chosen + 1, last)
        while trial is not None and not (trial := search.settled(trial)).candidate.holds:
            trial = None if trial.point is None or trial.point == last else search.trial(trial.point + 1)
        self.trials = [search.tried[index] for index in sorted(search.tried)]
        if trial is None:
            raise AccuracyError(self.complaint())
        own = trial.point == search.chosen
        why = "the choice of the pass is above the floor" if own else "the next point of the front above the floor"
        return self.outcome(Preferred(self.trials.index(trial), why))

    def ship(self, original: Compiled, clock: Clock | None) -> tuple[Compiled, Mixed]:
        """The best of all candidates.

        Args:
            original: the model as it came.
            clock: None where the engine doesn't run here: then the tables' costs stand for times.

        Raises:
            AccuracyError: nothing that may ship is above the floor.
        """
        search = self.search
        plain = simplified(self.first, self.watch)
        search.report(FLOAT)
        simple = Trial(search.candidate(FLOAT, plain), plain)
        self.trials = [Trial(self._described(original), original), simple]
        search.report(INT8)
        integers = search.in_8_bits()
        self.trials.append(Trial(search.candidate(INT8, integers), integers))
        self.trials += [] if (mixed := self._mixed()) is None else [mixed]
        for index in range(len(self.trials)):
            self._time(index, clock)
        if mixed is not None:
            self._neighbours(len(self.trials) - 1, clock)
        return self.outcome(self._settle(clock))

    def _described(self, original: Compiled) -> Candidate:
        """The original: what everything is measured against."""
        return Candidate(
            name=ORIGINAL,
            shares={FLOAT32: 1.0} if self.search.macs else {},
            accuracy=self.search.reference_accuracy,
            sqnr_db=math.inf,
            value=self.judge.reference,
            holds=self.judge.holds(self.judge.reference),
            weight_bytes=value_bytes(original.graph) + attribute_bytes(original.graph),
            cost=self.search.float_cost,
            cost_share=1.0,
        )

    def _mixed(self) -> Trial | None:
        """The point of the front that is a candidate; None where none is above the floor, or another has its form."""
        search, last = self.search, len(self.search.points) - 1
        if self.budget is None:
            found = search.cheapest(0, last)
        else:
            found = search.trial(search.chosen)
            if not found.candidate.holds:
                found = search.cheapest(search.chosen + 1, last) or found
        return None if found is None or self._is_known(found) else found

    def _is_known(self, trial: Trial) -> bool:
        """Whether a candidate has the same precisions already."""
        precisions = self.search.solution(trial.compiled).precisions
        return any(
            self.search.solution(other.compiled).precisions == precisions
            for other in self.trials
            if other.candidate.name != ORIGINAL
        )

    def _time(self, index: int, clock: Clock | None) -> None:
        """Put the latency into a candidate, and whether it is within the budget."""
        trial = self.trials[index]
        found = trial.candidate
        if clock is not None and found.name != ORIGINAL and found.latency is None:
            self.search.report(f"{found.name}, its latency")
            try:
                found = replace(found, latency=clock.time(to_proto(trial.compiled.graph)))
            except GraphoptError as error:
                self.notes.append(f"{found.name} can't ship: {error}")
                found = replace(found, holds=False)
        found = replace(found, within_budget=self._within_budget(found))
        self.trials[index] = replace(trial, candidate=found)
        if trial.point is not None:
            self.search.tried[trial.point] = self.trials[index]

    def _within_budget(self, candidate: Candidate) -> bool | None:
        if self.budget is None or candidate.cost is None:
            return None
        problem = self.search.record.problem
        limit = self.budget.limit(problem.regions, problem.costs)
        if self.budget.kind != "latency" or candidate.latency is None:
            return candidate.cost <= limit * (1 + 1e-6)
        if self.budget.unit == "x":
            found = candidate.latency
            return self.budget.value * min(found.median_high, (1 + _SLACK) * found.speedup) >= 1
        return candidate.latency.seconds <= limit

    def _neighbours(self, index: int, clock: Clock | None) -> None:
        """Where a point takes longer than its cost promises, the next ones: cheaper for the budget, else dearer."""
        mixed = self.trials[index]
        assert mixed.point is not None
        if clock is None or not mixed.candidate.holds:
            return
        if mixed.candidate.within_budget is False and mixed.point <= self.search.chosen:
            near = range(mixed.point - 1, max(mixed.point - 1 - _NEIGHBOURS, -1), -1)
        elif is_slower(mixed.candidate):
            near = range(mixed.point + 1, min(mixed.point + 1 + _NEIGHBOURS, len(self.search.points)))
        else:
            return
        for point in near:
            trial = self.search.trial(point)
            if not self._is_known(trial):
                self.trials.append(trial)
                self._time(len(self.trials) - 1, clock)

    def _settle(self, clock: Clock | None) -> Preferred:
        """What is preferred once weights and biases were fitted for it; where it is below the floor then, the next."""
        while True:
            best = prefer(
                [t.candidate for t in self.trials],
                keep_original=self.keep_original,
                budget_first=self.budget is not None and self.budget.kind != "latency",
            )
            if best is None:
                raise AccuracyError(self.complaint())
            trial = self.trials[best.index]
            if trial.fitted:
                if clock is None or trial.candidate.name in (ORIGINAL, FLOAT) or self._is_confirmed(best.index, clock):
                    return best
                continue
            again = self.search.settled(trial)
            self.trials[best.index] = again
            if not again.candidate.holds and again.point is not None and again.point + 1 < len(self.search.points):
                following = self.search.trial(again.point + 1)
                if not self._is_known(following):
                    self.trials.append(following)
                    self._time(len(self.trials) - 1, clock)

    def _is_confirmed(self, index: int, clock: Clock) -> bool:
        """Whether a candidate that was found faster than the original is so the second time; if not, that counts."""
        trial = self.trials[index]
        if is_slower(trial.candidate):  # the best there is all the same: a budget, or nothing else is above the floor
            return True
        self.search.report(f"{trial.candidate.name}, its latency once more")
        again = replace(trial.candidate, latency=clock.time(to_proto(trial.compiled.graph), anew=True))
        if not is_slower(again):
            return True
        self.trials[index] = replace(trial, candidate=again)
        return False

    def complaint(self) -> str:
        """Why it can't be held."""
        values = [t.candidate.value for t in self.trials if t.candidate.name != ORIGINAL]
        return self.judge.complaint(f"in none of {len(values)} assignments tried", max(values), self.ctx.elimination)

    def outcome(self, best: Preferred) -> tuple[Compiled, Mixed]:
        """The model that ships, and the table, said in the remarks, too."""
        search, demanded = self.search, self.judge.demanded
        costs = search.record.problem.costs
        trial = self.trials[best.index]
        engines = [t.candidate.latency.engine for t in self.trials if t.candidate.latency is not None]
        compiled = replace(trial.compiled, precision=self._record(trial))
        outcome = Mixed(
            demand=search.record.demand,
            metric=demanded.metric,
            floor=str(demanded),
            floor_given=self.terms.floor_given,
            data=self.judge.samples.name,
            on_calibration_data=self.terms.on_calibration_data,
            candidates=tuple(replace(t.candidate, shipped=t is trial) for t in self.trials),
            why=best.why,
            cost_kind=costs.kind,
            costs=costs.source,
            estimated=costs.estimated,
            engine=engines[0] if engines else "",
            notes=(*self.notes, *self._rough(), *self._missed(trial.candidate)),
        )
        compiled.remarks.current = "mixed-precision"
        compiled.remarks.note(None, outcome.summary)
        compiled.remarks.current = ""
        return compiled, outcome

    def _record(self, trial: Trial) -> PrecisionChoice:
        """What was assigned, with the assignment of a candidate in place of the first run's."""
        found = self.search.solution(trial.compiled)
        point = None if trial.point is None else self.search.points[trial.point]
        same = point is not None and dict(point.precisions) == dict(found.precisions)
        return replace(self.search.record, chosen=point if same and point is not None else found)

    def _rough(self) -> list[str]:
        if not any(t.candidate.latency is not None and t.candidate.latency.is_rough for t in self.trials):
            return []
        return ["the machine was busy with something else: speeds are rough (quartiles in brackets)"]

    def _missed(self, shipped: Candidate) -> list[str]:
        if shipped.within_budget is not False:
            return []
        why = "what meets it is below the floor, or slower than the original"
        mend = "a pipeline of passes with assign-precision ships its own choice"
        return [f"the budget {self.budget} isn't met: {why}; {mend}"]


def budget_of(first: Compiled) -> Budget | None:
    """The budget that the pass was given; None without one."""
    from graphopt.analysis.precision.budget import parse_budget

    text = next((getattr(p, "budget", None) for p in first.passes if p.name == ASSIGNING), None)
    return parse_budget(text) if text else None


def check_engine(target: Target | None, device: str | None, *, timed: bool) -> None:
    """Say early that costs can't be estimated, or candidates not be timed.

    Raises:
        ConfigError: the target has no engine, or its engine no such device.
        UnsupportedError: candidates are `timed`, and the engine, which runs on this machine, isn't installed.
    """
    if target is None or not (target.engine or device or timed):
        return
    engine = find_engine(target)
    engine.device(device)
    if timed and engine.run is not None:
        engine.require()


def contest(model: object, base_dir: str | Path | None, mixing: Mixing) -> tuple[Compiled, Clock | None]:
    """What `Mixing.ship` needs: the original, and what times candidates against it in the target's engine."""
    assert mixing.ctx.target is not None
    plain = to_proto(simplified(mixing.first, mixing.watch).graph)
    references = [runnable(model, base_dir), plain]
    clock, notes = _clock(find_engine(mixing.ctx.target), references, mixing.judge, mixing.ctx.threads)
    mixing.notes += notes
    mixing.keep_original &= clock is None or not notes
    original = load(model, base_dir=base_dir)
    history = None if mixing.first.history is None else History(outline(original))
    return Compiled(original, (), (), Remarks(), history=history), clock


def _clock(
    engine: Engine, references: Sequence[Model], judge: Judge, threads: int | None
) -> tuple[Clock | None, list[str]]:
    """What times candidates against the first reference that the engine runs; why it isn't the first one."""
    if engine.run is None:
        return None, [f"{engine.title} doesn't run on this machine: how fast candidates are follows from the costs"]
    notes: list[str] = []
    for reference in references:
        clock = Stopwatch(engine, reference, next(iter(judge.samples)), threads=threads, budget=TIMING_SECONDS)
        try:
            clock.open()
        except GraphoptError as error:
            notes.append(f"{engine.title} doesn't run the float model: {error}")
        else:
            return clock, notes
    return None, notes
