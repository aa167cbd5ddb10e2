"""Which of the changes that a pass made lose what is demanded.

Looked for is the smallest set of changes to take back so that the model behind the pass holds the demand again. Taking
back, and not making: where two changes make up for each other (a factor moved from one layer to the next), either alone
ruins the model without any bug, but taking only one of them back cures nothing. And of several bugs it finds all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from graphopt.analysis.rewrites.delta_debugging import Minimal, ddmin
from graphopt.analysis.rewrites.hybrid import Hybrids
from graphopt.api.bisect_search import Fall
from graphopt.api.metrics import Judge
from graphopt.errors import GraphoptError
from graphopt.ir import Graph, to_proto
from graphopt.pipeline.passes import Progress

# Models measured at most: those of a search by halves, and for each change alone.
MOST_TESTS, MOST_RANKED, MOST_ALONE = 160, 160, 16


@dataclass(frozen=True)
class Blamed:
    """A change that has to be taken back.

    Attributes:
        units: its parts; a rewrite that no part of can be spared is one change.
        alone: the value of the model with this change only; NaN: there is none, or it wasn't measured.
    """

    units: tuple[int, ...]
    alone: float


@dataclass(frozen=True)
class Isolated:
    """What is to blame for a fall.

    Attributes:
        hybrids: the pass in parts.
        blamed: what has to be taken back, what loses most by itself first.
        changes: how many changes the pass made.
        cured: the value behind the pass without it.
        alone: the value with nothing else changed; NaN: that can't be.
        tests: how many models were measured.
        unresolved: how many couldn't be: no valid model, or one that doesn't run.
        is_minimal: whether each of the changes is known to be needed.
    """

    hybrids: Hybrids
    blamed: tuple[Blamed, ...]
    changes: int
    cured: float
    alone: float
    tests: int
    unresolved: int
    is_minimal: bool

    def only(self) -> Graph | None:
        """The model in front of the pass with nothing but these changes."""
        return self.hybrids.apply([unit for blamed in self.blamed for unit in blamed.units])


def isolate(fall: Fall, progress: Progress | None = None) -> Isolated | None:
    """What is to blame for the fall; None where the pass can't be divided: no part of it can be taken back alone."""
    assert fall.bad.pass_ is not None
    hybrids = Hybrids(fall.good.snapshot.restore(), fall.bad.snapshot.restore())
    trials = _Trials(hybrids, fall.judge, progress)
    everything = range(len(hybrids.units))
    if not hybrids.units or not trials.cures(everything) or trials.cures(()):
        return None
    gradual = _is_gradual(fall, len(everything))
    found = trials.ranked_minimum() if gradual else trials.minimum(everything)
    rewrites = [[unit] for unit in everything] if gradual else hybrids.rewrites(everything)
    needed = [[u for u in rewrite if u in found.changes] for rewrite in rewrites]
    changes = [tuple(some) for some, rewrite in zip(needed, rewrites, strict=True) if some == rewrite]
    changes += [(u,) for some, rewrite in zip(needed, rewrites, strict=True) if some != rewrite for u in some]
    alone = {units: trials.value(units) if len(changes) <= MOST_ALONE else math.nan for units in changes}
    blamed = sorted((Blamed(u, v) for u, v in alone.items()), key=lambda b: (math.isnan(b.alone), b.alone))
    return Isolated(
        hybrids,
        tuple(blamed),
        len(rewrites),
        trials.value(trials.without(found.changes)),
        trials.value(found.changes),
        trials.tests,
        trials.unresolved,
        found.is_minimal,
    )


def _is_gradual(fall: Fall, units: int) -> bool:
    """Whether each change may lose a bit, so that the ones that lose most are asked for."""
    return fall.bad.pass_ is not None and not fall.bad.pass_.lossless and units <= MOST_RANKED


@dataclass
class _Trials:
    """Measures hybrids, each once."""

    hybrids: Hybrids
    judge: Judge
    progress: Progress | None
    known: dict[frozenset[int], float] = field(default_factory=dict[frozenset[int], float])

    @property
    def tests(self) -> int:
        return len(self.known)

    @property
    def unresolved(self) -> int:
        return sum(math.isnan(value) for value in self.known.values())

    def without(self, units: Collection[int]) -> list[int]:
        """All others."""
        left_out = set(units)
        return [k for k in range(len(self.hybrids.units)) if k not in left_out]

    def value(self, units: Collection[int]) -> float:
        """The value of the model with these units applied; NaN: there is none."""
        key = frozenset(units)
        if key not in self.known:
            graph = self.hybrids.apply(units)
            try:
                self.known[key] = math.nan if graph is None else self.judge.score(to_proto(graph))
            except GraphoptError:  # it can't be run, or no metric can be had of it
                self.known[key] = math.nan
            if self.progress is not None:
                self.progress("dividing the pass", len(self.known), None)
        return self.known[key]

    def cures(self, units: Collection[int]) -> bool | None:
        """Whether the demand is held when these are taken back; None: can't be told."""
        value = self.value(self.without(units))
        return None if math.isnan(value) else self.judge.holds(value)

    def minimum(self, units: Sequence[int]) -> Minimal:
        """A 1-minimal part of `units` to take back: first whole rewrites, then their parts."""
        groups = self.hybrids.rewrites(units)

        def cure(chosen: Sequence[int]) -> bool | None:
            return self.cures([unit for number in chosen for unit in groups[number]])

        coarse = ddmin(range(len(groups)), cure, MOST_TESTS)
        left = sorted(unit for number in coarse.changes for unit in groups[number])
        fine = ddmin(left, self.cures, MOST_TESTS)
        return replace(fine, is_minimal=fine.is_minimal and coarse.is_minimal)

    def ranked_minimum(self) -> Minimal:
        """The same among those that gain most when they alone are taken back: the fewest of them that suffice."""
        gains = {unit: self.value(self.without([unit])) for unit in range(len(self.hybrids.units))}
        ranked = sorted(gains, key=lambda u: -math.inf if math.isnan(gains[u]) else gains[u], reverse=True)
        few, many = 0, len(ranked)
        while many - few > 1:
            middle = (few + many) // 2
            if self.cures(ranked[:middle]):
                many = middle
            else:
                few = middle
        return self.minimum(ranked[:many])
