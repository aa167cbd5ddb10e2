"""Mixed-integer linear programs for HiGHS, written row by row: minimise c·x, low ≤ A·x ≤ high, 0 ≤ x ≤ upper."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphopt.ir.process_wide import ProcessWide

# HiGHS takes a row as met within 1e-6; limits are best scaled to about 1.
ROW_TOLERANCE = 2e-6
_INFEASIBLE = 2


@dataclass(frozen=True)
class Effort:
    """How long to search.

    Attributes:
        gap: stop when the objective is proven to be above the least one by at most this part of it.
        node_limit: branches to look at.
        time_limit: seconds. What it stops depends on the machine; the others don't.
    """

    gap: float = 1e-3
    node_limit: int = 2000
    time_limit: float = 120.0


@dataclass(frozen=True)
class Found:
    """What HiGHS says.

    Attributes:
        x: values of the variables; None when it found nothing.
        bound: no x has a smaller objective.
        infeasible: whether there is no x.
        stopped: whether it ran into a limit of its own.
    """

    x: NDArray[np.float64] | None
    bound: float
    infeasible: bool
    stopped: bool


class Rows:
    """The rows of a program, in the order in which they are added."""

    def __init__(self) -> None:
        self._columns: list[NDArray[np.int64]] = []
        self._values: list[NDArray[np.float64]] = []
        self._low: list[float] = []
        self._high: list[float] = []

    def add(self, columns: ArrayLike, values: ArrayLike, low: float, high: float) -> None:
        """The row low ≤ Σ values·x[columns] ≤ high; a scalar of `values` stands for all of them."""
        at = np.asarray(columns, np.int64)
        self._columns.append(at)
        self._values.append(np.broadcast_to(np.asarray(values, np.float64), at.shape))
        self._low.append(low)
        self._high.append(high)

    def copy(self) -> Rows:
        """Rows that can be added to on their own."""
        other = Rows()
        other._columns, other._values = list(self._columns), list(self._values)
        other._low, other._high = list(self._low), list(self._high)
        return other

    def minimise(
        self, objective: NDArray[np.float64], upper: NDArray[np.float64], whole: Sequence[int] | NDArray[np.int64],
        effort: Effort,
    ) -> Found:  # fmt: skip
        """Solve the program.

        Args:
            objective: [variables]; best about 1 in size, since the solver's tolerances are absolute.
            upper: the most that each variable may be.
            whole: the variables that are integers.
            effort: how long to search.
        """
        # scipy costs as much to import as all of graphopt.
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        row_of = np.repeat(np.arange(len(self._columns)), [len(columns) for columns in self._columns])
        entries = np.concatenate(self._values), (row_of, np.concatenate(self._columns))
        matrix = csr_array(entries, shape=(len(self._columns), len(objective)))
        integrality = np.zeros(len(objective), dtype=np.int64)
        integrality[whole] = 1
        with _STDOUT_KEPT_CLEAN:
            result = milp(
                objective,
                integrality=integrality,
                bounds=Bounds(0, upper),
                constraints=LinearConstraint(matrix, self._low, self._high),
                options={"mip_rel_gap": effort.gap, "node_limit": effort.node_limit, "time_limit": effort.time_limit},
            )
        bound = -np.inf if result.mip_dual_bound is None else float(result.mip_dual_bound)
        if result.x is None:
            return Found(None, bound, result.status == _INFEASIBLE, result.status != _INFEASIBLE)
        return Found(result.x, bound, False, result.status != 0)


def within(cost: float, limit: float) -> bool:
    """Whether a cost is at most `limit`, but for rounding."""
    return cost <= limit + 1e-9 * abs(limit)


@contextmanager
def _stdout_kept_clean() -> Generator[None]:
    """Send what native code prints to stderr: HiGHS 1.12 has a printf left over, and stdout may be somebody's JSON."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # a process without a stdout
        yield
        return
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


_STDOUT_KEPT_CLEAN = ProcessWide(_stdout_kept_clean)
