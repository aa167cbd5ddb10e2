"""Sizes without a search: the same part of every group, or one ranking over all groups.

evenly     ratio 0.3 of 64 and 128 units, sizes in eights    →   48 (nearest to 44.8, the larger of two as near), 88
greedily   the cheapest step in error ÷ cost saved, over all groups, until the budgets hold
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from graphopt.analysis.pruning.budgets import Allocation, Budget, Errors, described, unreachable
from graphopt.analysis.pruning.kept_counts import KeptCounts
from graphopt.errors import ConfigError


def allocate_evenly(ratio: float, counts: KeptCounts, budgets: Sequence[Budget] = ()) -> Allocation:
    """The same part of every group: the size nearest to (1 − `ratio`) of its units, the larger of two as near.

    Args:
        ratio: the part of the units to remove, in [0, 1).
        counts: the sizes to choose from.
        budgets: whose costs are reported; they are not held.

    Raises:
        ConfigError: `ratio` isn't in [0, 1).
    """
    if not 0 <= ratio < 1:
        raise ConfigError(f"ratio {ratio:g}: the part of the channels to remove is at least 0 and below 1")
    choice = {group: _nearest(sizes, (1 - ratio) * sizes[-1]) for group, sizes in counts.items()}
    return described(choice, counts, budgets)


def allocate_evenly_within(counts: KeptCounts, budgets: Sequence[Budget]) -> Allocation:
    """The least ratio whose even sizes are within all budgets; sizes are coarse, so what is left of them is used up.

    That is, group by group in their order, the size that the group has at the ratio just below is taken where the
    budgets still hold.

    Args:
        counts: the sizes to choose from.
        budgets: what the sizes may cost.

    Raises:
        ConfigError: no ratio is within them; the message has the least cost that can be had.
    """
    # The even choice changes at the middle between two sizes of a group, and nowhere else.
    middles = {1 - (a + b) / 2 / sizes[-1] for sizes in counts.values() for a, b in pairwise(sizes)}
    below: Mapping[str, int] = {}
    for ratio in (0.0, *(min(middle + 1e-9, 1 - 1e-12) for middle in sorted(middles))):
        choice = dict(allocate_evenly(ratio, counts).choice)
        if all(b.holds(choice) for b in budgets):
            for group, index in below.items():
                if all(b.holds({**choice, group: index}) for b in budgets):
                    choice[group] = index
            return described(choice, counts, budgets)
        below = choice
    raise unreachable(counts, budgets)


def allocate_greedily(errors: Errors, counts: KeptCounts, budgets: Sequence[Budget]) -> Allocation:
    """One ranking over all groups: again and again the step that adds the least error for what it saves.

    A step takes one group to any smaller size. What it saves is counted with the other groups as they are by then, as
    a part of the limit, and summed over the budgets that are still exceeded.

    Args:
        errors: of each group in `counts`.
        counts: the sizes to choose from.
        budgets: what the sizes may cost.

    Raises:
        ConfigError: a budget is still exceeded where no step saves any more; the message has the least cost that can
            be had.
    """
    choice = greedy_choice(errors, counts, budgets)
    if choice is None:
        raise unreachable(counts, budgets)
    return described(choice, counts, budgets, errors)


def greedy_choice(errors: Errors, counts: KeptCounts, budgets: Sequence[Budget]) -> dict[str, int] | None:
    """Group → number of its size by `allocate_greedily`; None where a budget is exceeded and no step saves any more."""
    choice = {group: len(sizes) - 1 for group, sizes in counts.items()}
    while over := [b for b in budgets if not b.holds(choice)]:
        steps = [step for group in counts if (step := _best_step(group, errors[group], choice, over)) is not None]
        if not steps:
            return None
        _, _, group, index = min(steps)
        choice[group] = index
    return choice


def _best_step(
    group: str, errors: Sequence[float], choice: Mapping[str, int], over: Sequence[Budget]
) -> tuple[float, float, str, int] | None:
    """(error added for what is saved, −saved, group, number of the new size); None where no smaller size saves."""
    now = choice[group]
    saved = np.zeros(now)
    for budget in over:
        costs = budget.cost.along(group, choice)
        if costs is not None:
            saved += (costs[now] - costs[:now]) / max(abs(budget.limit), 1e-300)
    added = np.asarray(errors, dtype=np.float64)[:now] - errors[now]
    steps = [(float(added[i] / saved[i]), -float(saved[i]), group, i) for i in range(now) if saved[i] > 0]
    return min(steps, default=None)


def _nearest(sizes: Sequence[int], wanted: float) -> int:
    """Number of the size nearest to `wanted`."""
    return min(range(len(sizes)), key=lambda index: (abs(sizes[index] - wanted), -sizes[index]))
