"""The sums of a mixed-precision problem as a mixed-integer linear program: any number of precisions, one limit.

    x[r,p] binary       region r has precision p                        Σ_p x[r,p] = 1
    h[t] binary         any literal of a term holds                     h ≥ Σ_{p of the literal} x[r,p]   for each one
    v[t] binary         … and what spares it doesn't                    v ≥ h − Σ_{p of `unless`} x[w,p]
    needs                                                               Σ_{p of `when`} x ≤ Σ_{literals} Σ_p x

Nothing that is paid is negative, so h and v are what they stand for at a minimum, and could be continuous; but whole,
HiGHS has nothing left to solve once they are chosen (it lost one best solution of 1,200 there).

HiGHS works with absolute tolerances while errors span twelve decades: everything is in parts of the value of an
assignment at hand, what alone is worse than that is ruled out, and what is below 1e-9 of it is left out. A far better
assignment starts it over in smaller parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.highs import Effort, Rows
from graphopt.analysis.precision.terms import Literal, Paid, Terms

Value: TypeAlias = Callable[[Paid], int]
"""What is minimised, or limited, of an error and a cost; linear in both."""

# What the value of the assignment at hand, and the limit, are in the program: HiGHS takes 1e-6 for nothing.
_SCALE = 1000.0
_NEGLIGIBLE = 1e-9
# Ties in the objective go to the assignment that has less of what is limited, as far as this part of it can tell.
_TIE = 1e-7
_ROUNDS = 6


@dataclass(frozen=True)
class Best:
    """What was found.

    Attributes:
        precisions: the assignment; None where no one keeps to the limit.
        proven: there is no better one, within the gap that was asked for.
    """

    precisions: dict[str, str] | None
    proven: bool


class Linear:
    """The program of a problem; solved for one objective and one limit at a time."""

    def __init__(self, terms: Terms) -> None:
        """Number the variables and write down the rows."""
        self.terms = terms
        self._column = {key: index for index, key in enumerate(terms.single)}
        self._rows = Rows()
        for region, choices in terms.choices.items():
            self._rows.add([self._column[region, p] for p in choices], 1.0, 1.0, 1.0)
        self._columns = len(self._column)
        # Terms about the same literals share h: a tensor's error and its conversion.
        shared: dict[tuple[Literal, ...], list[int]] = {}
        self._paid: list[list[int]] = []
        for term in terms.terms:
            if term.any_of not in shared:
                shared[term.any_of] = self._any(term.any_of)
            self._paid.append(
                shared[term.any_of] if term.unless is None else self._unless(shared[term.any_of], self._of(term.unless))
            )
        for need in terms.needs:
            when, readers = self._of(need.when), [c for literal in need.any_of for c in self._of(literal)]
            self._rows.add([*when, *readers], [1.0] * len(when) + [-1.0] * len(readers), -np.inf, 0.0)

    def minimise(
        self, value: Value, effort: Effort, start: dict[str, str] | None, limited: Value | None = None, limit: int = 0
    ) -> Best:
        """The assignment with the least `value` whose `limited` is at most `limit`.

        Args:
            value: of what is paid.
            effort: how long to search.
            start: an assignment that keeps to the limit; None where none is known.
            limited: of what is paid; None without a limit.
            limit: the most that it may be.
        """
        rows, best, proven = self._rows.copy(), start, False
        for _ in range(_ROUNDS):
            goal, base = self._parts(value)
            most = float(goal.sum()) if best is None else float(value(self.terms.of(best)) - base)
            if most <= 0:
                return Best(best, True)  # nothing can be below the least of each region
            found, proven = self._solve(rows, goal, most, effort, limited, limit)
            if found is None:
                return Best(best, proven and best is None)
            if limited is not None and limited(self.terms.of(found)) > limit:
                # Within the solver's tolerance of the limit, but beyond it.
                rows.add([self._column[item] for item in found.items()], 1.0, -np.inf, len(found) - 1.0)
                proven = False
                continue
            if best is None or _order(value, limited, self.terms.of(found)) < _order(
                value, limited, self.terms.of(best)
            ):
                best = found
            if not proven or float(value(self.terms.of(best)) - base) > 0.1 * most:
                break
        return Best(best, proven)

    def _solve(
        self, rows: Rows, goal: NDArray[np.float64], most: float, effort: Effort, limited: Value | None, limit: int
    ) -> tuple[dict[str, str] | None, bool]:
        """(the assignment, whether nothing is better); (None, True) where there is none."""
        upper = (goal <= most * (1 + 1e-9)).astype(np.float64)
        objective = np.where(goal > _NEGLIGIBLE * most, goal, 0.0) / most * _SCALE
        if limited is not None:
            row, base = self._parts(limited)
            left = float(limit - base)
            if left < 0:
                return None, True
            upper[row > left * (1 + 1e-9)] = 0.0
            used = np.flatnonzero(row > _NEGLIGIBLE * left)
            rows = rows.copy()
            if len(used) and left > 0:
                rows.add(used, row[used] / left * _SCALE, -np.inf, _SCALE)
                objective[used] += _TIE * _SCALE * np.minimum(row[used] / left, 1.0)
        result = rows.minimise(objective, upper, range(self._columns), effort)
        if result.x is None:
            return None, result.infeasible
        at = {key: float(result.x[column]) for key, column in self._column.items()}
        chosen = {r: max(choices, key=lambda p, r=r: at[r, p]) for r, choices in self.terms.choices.items()}
        return chosen, not result.stopped

    def _parts(self, value: Value) -> tuple[NDArray[np.float64], int]:
        """What each variable adds beyond the least of its region, and what all assignments have."""
        single = {key: value(paid) for key, paid in self.terms.single.items()}
        least = {r: min(single[r, p] for p in choices) for r, choices in self.terms.choices.items()}
        row = np.zeros(self._columns)
        for (region, precision), column in self._column.items():
            row[column] = single[region, precision] - least[region]
        for term, columns in zip(self.terms.terms, self._paid, strict=True):
            row[columns] += value(term.paid)
        return row, value(self.terms.constant) + sum(least.values())

    def _of(self, literal: Literal) -> list[int]:
        return [self._column[literal.region, p] for p in literal.precisions]

    def _any(self, literals: Sequence[Literal]) -> list[int]:
        if len(literals) == 1:
            return self._of(literals[0])
        for literal in literals:
            columns = self._of(literal)
            self._rows.add([*columns, self._columns], [1.0] * len(columns) + [-1.0], -np.inf, 0.0)
        self._columns += 1
        return [self._columns - 1]

    def _unless(self, held: list[int], unless: list[int]) -> list[int]:
        self._rows.add([*held, *unless, self._columns], [1.0] * len(held) + [-1.0] * (len(unless) + 1), -np.inf, 0.0)
        self._columns += 1
        return [self._columns - 1]


def _order(value: Value, limited: Value | None, paid: Paid) -> tuple[int, int]:
    return value(paid), 0 if limited is None else limited(paid)
