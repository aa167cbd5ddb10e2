"""Limits of costs, and the sizes that were chosen for the groups under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from graphopt.analysis.highs import within
from graphopt.analysis.pruning.cost_tables import CostTable
from graphopt.analysis.pruning.kept_counts import KeptCounts
from graphopt.analysis.pruning.transport_program import Program
from graphopt.errors import ConfigError

Errors: TypeAlias = Mapping[str, Sequence[float]]
"""For each group, the error at each of its sizes (`KeptCounts`): ascending sizes, so usually descending errors."""


@dataclass(frozen=True)
class Budget:
    """One limit.

    Attributes:
        what: for messages: "MACs", "parameters", "bytes", "seconds".
        cost: what is limited.
        limit: the most that it may be.
    """

    what: str
    cost: CostTable
    limit: float

    def holds(self, choice: Mapping[str, int]) -> bool:
        """Whether a choice of sizes (group → number of the size) is within it."""
        return within(self.cost.of(choice), self.limit)


@dataclass(frozen=True)
class Allocation:
    """A size for each group.

    Attributes:
        kept: group → units that stay.
        choice: group → number of this size among the group's sizes.
        error: the sum of the groups' errors.
        costs: what each budget's cost comes to, in the order of the budgets.
        gap: the least possible error may be below `error` by at most this part of it; None where nobody tried to
            find out.
        stopped: whether the search ran into a limit before it had proven the gap that was asked for.
    """

    kept: Mapping[str, int]
    choice: Mapping[str, int]
    error: float
    costs: tuple[float, ...]
    gap: float | None = None
    stopped: bool = False


def described(
    choice: Mapping[str, int], counts: KeptCounts, budgets: Sequence[Budget], errors: Errors | None = None
) -> Allocation:
    """The sizes chosen with what they come to; without `errors` the error is NaN."""
    error = float("nan") if errors is None else float(sum(errors[group][choice[group]] for group in counts))
    kept = {group: sizes[choice[group]] for group, sizes in counts.items()}
    return Allocation(kept, dict(choice), error, tuple(b.cost.of(choice) for b in budgets))


def unreachable(counts: KeptCounts, budgets: Sequence[Budget]) -> ConfigError:
    """The complaint that no sizes are within all budgets, with the least that can be had of each."""
    program = Program(counts, [b.cost for b in budgets])
    least = [program.least(index) for index in range(len(budgets))]
    for budget, possible in zip(budgets, least, strict=True):
        if not within(possible, budget.limit):
            whole = budget.cost.of({group: len(sizes) - 1 for group, sizes in counts.items()})
            return ConfigError(
                f"at most {_number(budget.limit)} {budget.what} can't be reached by removing channels: "
                f"the least is {_number(possible)}{_part(possible, whole)}; "
                "ask for more, lower min_channels or align, or exclude less"
            )
    each = ", ".join(
        f"{_number(b.limit)} {b.what} (alone at least {_number(p)})" for b, p in zip(budgets, least, strict=True)
    )
    return ConfigError(f"the budgets can't be met together by removing channels: {each}; ask for more of one of them")


def _part(cost: float, whole: float) -> str:
    return f", {cost / whole:.1%} of {_number(whole)}" if whole > 0 else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
