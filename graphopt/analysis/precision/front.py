"""The Pareto front of mixed precision: assignments that no other beats in error and cost at once.

From both ends, the widest gap between two points is split until there are enough: at a corner of the hull (one minimum
cut) where one lies between them, else by a program, at half the cost or half the decibels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from graphopt.analysis.highs import Effort
from graphopt.analysis.precision.hull import Hull, Point
from graphopt.analysis.precision.problem import evaluate
from graphopt.analysis.precision.sums import sums_of
from graphopt.analysis.precision.terms import Paid, cost_of, error_of
from graphopt.analysis.precision.types import Problem, Solution

# Dozens of programs may be solved, where the one of a budget that a user gives may take longer.
EFFORT = Effort(gap=1e-6, node_limit=500, time_limit=5.0)
# Errors this far below the largest one are as good as none: 60 dB.
_QUIET = 1e-6


def front(problem: Problem, points: int = 24, *, effort: Effort = EFFORT) -> tuple[Solution, ...]:
    """Points of the front, the cheapest first: the ends, and others spread over cost and decibels.

    The same on every machine unless a time limit stops a program; then its point isn't `proven`.

    Args:
        problem: what is to be assigned.
        points: how many at most, at least 2; there are fewer where the front has no more, or one where one assignment
            is best in both.
        effort: for each program.

    Raises:
        ConfigError: the choices contradict each other.
    """
    hull = Hull(sums_of(problem), effort)
    search = _Search(hull, effort)
    while len(search.points) < points and search.widest() is not None:
        search.split()
    found = [evaluate(problem, point.precisions, proven=point.proven) for point in search.points]
    return undominated(found)


def undominated(solutions: Iterable[Solution]) -> tuple[Solution, ...]:
    """Those that no other beats or equals in error and cost, the cheapest first."""
    kept: list[Solution] = []
    for solution in sorted(solutions, key=lambda s: (s.cost, s.error)):
        if not kept or solution.error < kept[-1].error:
            kept.append(solution)
    return tuple(kept)


@dataclass(frozen=True)
class _Gap:
    """What lies between two points.

    Attributes:
        cheap, accurate: the points.
        corners: both are corners of the hull next to each other as far as is known, so that a cut may split it.
        by_cost, by_error: whether a program may still find a point at half the cost, or at half the decibels.
    """

    cheap: Point
    accurate: Point
    corners: bool = True
    by_cost: bool = True
    by_error: bool = True


@dataclass
class _Search:
    hull: Hull
    effort: Effort
    gaps: list[_Gap] = field(default_factory=list[_Gap])

    def __post_init__(self) -> None:
        self._ends = self.hull.cheapest(), self.hull.most_accurate()
        cheapest, most_accurate = (point.paid for point in self._ends)
        if cheapest.cost < most_accurate.cost and cheapest.error > most_accurate.error:
            self.gaps.append(_Gap(*self._ends))

    @property
    def points(self) -> list[Point]:
        """What is known, the cheapest first."""
        return [self._ends[0], *(gap.accurate for gap in self.gaps)]

    def widest(self) -> int | None:
        """The number of the widest gap that may have a point in it."""
        widths = [sum(self._width(gap)) if gap.corners or gap.by_cost or gap.by_error else 0.0 for gap in self.gaps]
        return max(range(len(widths)), key=widths.__getitem__) if any(widths) else None

    def split(self) -> None:
        """Look for a point in the widest gap, in one way."""
        at = self.widest()
        assert at is not None  # callers ask first
        gap = self.gaps[at]
        if gap.corners:
            found, without = self.hull.between(gap.cheap, gap.accurate), replace(gap, corners=False)
        elif gap.by_cost and (self._width(gap)[0] >= self._width(gap)[1] or not gap.by_error):
            found, without = self._at_half_the_cost(gap), replace(gap, by_cost=False)
        else:
            found, without = self._at_half_the_decibels(gap), replace(gap, by_error=False)
        if found is None or not self._lies_in(gap, found.paid):
            self.gaps[at] = without
        else:
            parts = (gap.cheap, found), (found, gap.accurate)
            self.gaps[at : at + 1] = [_Gap(*part, corners=gap.corners) for part in parts]

    def _at_half_the_cost(self, gap: _Gap) -> Point | None:
        limit = (gap.cheap.paid.cost + gap.accurate.paid.cost) // 2
        return self._point(gap.cheap, limit, of_cost=True)

    def _at_half_the_decibels(self, gap: _Gap) -> Point | None:
        high, low = (max(p.paid.error, _QUIET * self._ends[0].paid.error) for p in (gap.cheap, gap.accurate))
        return self._point(
            gap.accurate, max(round(math.sqrt(high) * math.sqrt(low)), gap.accurate.paid.error), of_cost=False
        )

    def _point(self, start: Point, limit: int, *, of_cost: bool) -> Point | None:
        goal, limited = (error_of, cost_of) if of_cost else (cost_of, error_of)
        best = self.hull.linear.minimise(goal, self.effort, start.precisions, limited, limit)
        if best.precisions is None:
            return None
        return Point(best.precisions, self.hull.terms.of(best.precisions), best.proven)

    @staticmethod
    def _lies_in(gap: _Gap, paid: Paid) -> bool:
        cheap, accurate = gap.cheap.paid, gap.accurate.paid
        return cheap.cost < paid.cost < accurate.cost and accurate.error < paid.error < cheap.error

    def _width(self, gap: _Gap) -> tuple[float, float]:
        """As parts of the whole front: in cost, and in decibels."""
        cost = (gap.accurate.paid.cost - gap.cheap.paid.cost) / (self._ends[1].paid.cost - self._ends[0].paid.cost)
        return cost, self._decibels(gap.cheap.paid) - self._decibels(gap.accurate.paid)

    def _decibels(self, paid: Paid) -> float:
        share = max(paid.error / self._ends[0].paid.error, _QUIET)
        return math.log10(share) / -math.log10(_QUIET)
