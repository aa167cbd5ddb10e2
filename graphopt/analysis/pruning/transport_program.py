"""The mixed-integer linear program behind `allocation`: one size for each group, costs of pairs of groups exact.

    x[g,i] binary       group g has its size number i:                  Σ_i x[g,i] = 1
    z[g,h,i,j] ≥ 0      both at once, x[g,i]·x[h,j]:                    Σ_j z[i,j] = x[g,i],   Σ_i z[i,j] = x[h,j]
    cost                Σ single·x + Σ pairs·z  ≤  limit − constant     a row for each cost

For binary x the conditions on z leave the product alone, and they describe the convex hull of its values (a transport
polytope), so that the relaxation is tight where a big-M form is loose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.highs import ROW_TOLERANCE, Effort, Rows, within
from graphopt.analysis.pruning.cost_tables import CostTable, Table
from graphopt.analysis.pruning.kept_counts import KeptCounts


@dataclass(frozen=True)
class Solution:
    """What the solver found.

    Attributes:
        choice: group → number of its size; None when it found nothing.
        bound: no choice has a smaller objective.
        infeasible: whether no choice is within the limits.
        stopped: whether it ran into a limit of its own.
    """

    choice: Mapping[str, int] | None
    bound: float
    infeasible: bool
    stopped: bool


class Program:
    """The program of some costs; solved for one objective and one set of limits at a time."""

    def __init__(self, counts: KeptCounts, costs: Sequence[CostTable]) -> None:
        """Number the variables and write down the rows.

        Args:
            counts: the sizes of the groups.
            costs: what limits and objectives are about.
        """
        self._costs = costs
        self._span: dict[str, NDArray[np.int64]] = {}
        self._binaries = 0
        for group, sizes in counts.items():
            self._span[group] = np.arange(len(sizes)) + self._binaries
            self._binaries += len(sizes)
        self._columns = self._binaries
        self._rows = Rows()
        for span in self._span.values():
            self._rows.add(span, 1.0, 1.0, 1.0)
        self._products: dict[tuple[str, str], NDArray[np.int64]] = {}
        for pair in sorted({pair for cost in costs for pair in cost.pairs}):
            self._add_product(pair)

    def solve(
        self,
        weights: Mapping[str, Table],
        limits: Sequence[float],
        *,
        effort: Effort,
        most: float = np.inf,
    ) -> Solution:
        """The choice with the least Σ weights[g][i]·x[g,i] whose costs are within `limits`.

        Args:
            weights: group → [its sizes]; best about 1 in size, since the solver's tolerances are absolute.
            limits: for each cost.
            effort: how long to search.
            most: sizes with a larger weight are left out.
        """
        objective = np.zeros(self._columns)
        upper = np.ones(self._columns)
        for group, span in self._span.items():
            objective[span] = weights[group]
            upper[span] = weights[group] <= most
        solution = self._run(objective, upper, limits, effort)
        if solution.choice is not None and not self._holds(solution.choice, limits):
            tighter = [limit - ROW_TOLERANCE * abs(limit) for limit in limits]
            again = self._run(objective, upper, tighter, effort)
            held = again.choice is not None and self._holds(again.choice, limits)
            return Solution(again.choice if held else None, solution.bound, False, solution.stopped or again.stopped)
        return solution

    def least(self, index: int) -> float:
        """The least that cost number `index` can be, whatever the others are."""
        cost = self._costs[index]
        row = self._cost_row(cost)
        if not row.any():
            return cost.constant
        found = self._run(row / np.abs(row).max(), np.ones(self._columns), [], Effort(gap=1e-6))
        return cost.constant if found.choice is None else cost.of(found.choice)

    def _add_product(self, pair: tuple[str, str]) -> None:
        first, second = (self._span[group] for group in pair)
        z = np.arange(len(first) * len(second)).reshape(len(first), len(second)) + self._columns
        self._columns += z.size
        self._products[pair] = z
        for lines, ones in ((z, first), (z.T, second)):
            for line, one in zip(lines, ones, strict=True):
                self._rows.add(np.append(line, one), np.append(np.ones(len(line)), -1.0), 0.0, 0.0)

    def _cost_row(self, cost: CostTable) -> NDArray[np.float64]:
        row = np.zeros(self._columns)
        for group, table in cost.single.items():
            row[self._span[group]] += table
        for pair, table in cost.pairs.items():
            row[self._products[pair]] += table
        return row

    def _holds(self, choice: Mapping[str, int], limits: Sequence[float]) -> bool:
        return all(within(cost.of(choice), limit) for cost, limit in zip(self._costs, limits, strict=True))

    def _run(
        self, objective: NDArray[np.float64], upper: NDArray[np.float64], limits: Sequence[float], effort: Effort
    ) -> Solution:
        rows = self._rows.copy()
        for cost, limit in zip(self._costs, limits, strict=False):
            row = self._cost_row(cost)
            scale = max(abs(limit - cost.constant), 1e-6 * float(np.abs(row).max(initial=0.0))) or 1.0
            used = np.flatnonzero(row)
            rows.add(used, row[used] / scale, -np.inf, (limit - cost.constant) / scale)
        found = rows.minimise(objective, upper, range(self._binaries), effort)
        if found.x is None:
            return Solution(None, found.bound, found.infeasible, found.stopped)
        choice = {group: int(np.argmax(found.x[span])) for group, span in self._span.items()}
        return Solution(choice, found.bound, False, found.stopped)
