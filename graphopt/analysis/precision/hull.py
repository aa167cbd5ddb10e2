"""The corners of the front's convex hull: assignments that minimise a·error + b·cost for some a and b.

Each takes one minimum cut where there is one (about 10 ms for 150 regions), else one program without a limit.
"""

from __future__ import annotations

from typing import NamedTuple

from graphopt.analysis.highs import Effort
from graphopt.analysis.precision.cut import cut_of
from graphopt.analysis.precision.linear import Linear
from graphopt.analysis.precision.terms import Paid, Terms, cost_of, error_of
from graphopt.errors import ConfigError

# One unit of the first outweighs everything of the second: sums are about 2**64.
_FIRST = 2**70


class Point(NamedTuple):
    """An assignment, and what it pays."""

    precisions: dict[str, str]
    paid: Paid
    proven: bool


class Hull:
    """Corners of the hull, found one at a time.

    Attributes:
        terms: the problem.
        linear: its program.
    """

    def __init__(self, terms: Terms, effort: Effort) -> None:
        """Prepare both ways of solving; `effort` is for programs."""
        self.terms = terms
        self.linear = Linear(terms)
        self._cut = cut_of(terms)
        self._effort = effort
        self._ends: dict[bool, Point] = {}

    def cheapest(self) -> Point:
        """The least cost, and the least error that can be had for it."""
        return self._end(by_cost=True)

    def most_accurate(self) -> Point:
        """The least error, and the least cost that it can be had for."""
        return self._end(by_cost=False)

    def between(self, cheap: Point, accurate: Point) -> Point | None:
        """A corner between two points, below the line through them; None where there is none."""
        error = accurate.paid.cost - cheap.paid.cost
        cost = cheap.paid.error - accurate.paid.error
        if error <= 0 or cost <= 0:
            return None
        found = self._least(error, cost, cheap)
        below = _weighed(found.paid, error, cost) < _weighed(cheap.paid, error, cost)
        return found if below and found.paid not in (cheap.paid, accurate.paid) else None

    def around(self, limit: int, *, of_cost: bool) -> tuple[Point, Point | None]:
        """The corners next to a limit: the best one that keeps to it, and the next one, which doesn't.

        The first is the end of the front where no corner does; the second is None where the other end does.
        """
        ends = self.cheapest(), self.most_accurate()
        inside, outside = ends if of_cost else ends[::-1]
        if self._size(inside, of_cost) > limit or self._size(outside, of_cost) <= limit:
            better = outside if self._size(outside, of_cost) <= limit else inside
            return better, None
        while True:
            found = self.between(*((inside, outside) if of_cost else (outside, inside)))
            if found is None:
                return inside, outside
            if self._size(found, of_cost) <= limit:
                inside = found
            else:
                outside = found

    @staticmethod
    def _size(point: Point, of_cost: bool) -> int:
        return (cost_of if of_cost else error_of)(point.paid)

    def _least(self, error: int, cost: int, start: Point | None) -> Point:
        if self._cut is not None:
            found = self._cut.least(error, cost)
            if self.terms.allows(found):
                return Point(found, self.terms.of(found), True)
        best = self.linear.minimise(
            lambda paid: _weighed(paid, error, cost), self._effort, None if start is None else start.precisions
        )
        if best.precisions is None:
            raise ConfigError(
                "no assignment was found that gives every region the reader that its precision needs: "
                "regions of different integer precisions are pinned in front of the same one; pin fewer"
            )
        return Point(best.precisions, self.terms.of(best.precisions), best.proven)

    def _end(self, *, by_cost: bool) -> Point:
        if by_cost not in self._ends:
            self._ends[by_cost] = self._lexicographic(by_cost)
        return self._ends[by_cost]

    def _lexicographic(self, by_cost: bool) -> Point:
        if self._cut is not None:
            found = self._cut.least(*((1, _FIRST) if by_cost else (_FIRST, 1)))
            if self.terms.allows(found):
                return Point(found, self.terms.of(found), True)
        first = self._least(*((0, 1) if by_cost else (1, 0)), None)
        best = self.linear.minimise(
            error_of if by_cost else cost_of,
            self._effort,
            first.precisions,
            cost_of if by_cost else error_of,
            self._size(first, by_cost),
        )
        assert best.precisions is not None  # it starts from one
        return Point(best.precisions, self.terms.of(best.precisions), first.proven and best.proven)


def _weighed(paid: Paid, error: int, cost: int) -> int:
    return error * paid.error + cost * paid.cost
