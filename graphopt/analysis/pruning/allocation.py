"""How much each group keeps under a budget: the least sum of errors, by mixed-integer linear programming.

    minimise   Σ_g error[g][size of g]     such that     cost(sizes) ≤ limit, for each budget

Costs are tables over one group or over two (`cost_tables`), and nothing about them is approximated
(`transport_program`): a DenseNet-121 (120 groups, 638 pairs of them) takes 3 to 8 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from graphopt.analysis.highs import Effort
from graphopt.analysis.pruning.budgets import Allocation, Budget, Errors, described, unreachable
from graphopt.analysis.pruning.kept_counts import KeptCounts
from graphopt.analysis.pruning.simple_allocation import greedy_choice
from graphopt.analysis.pruning.transport_program import Program


def allocate(
    errors: Errors, counts: KeptCounts, budgets: Sequence[Budget], *, effort: Effort | None = None
) -> Allocation:
    """The sizes with the least sum of errors within all budgets.

    The same on every machine unless the time limit stops it. When it is stopped, the result is the better one of what
    it had and of `allocate_greedily`.

    Args:
        errors: of each group in `counts`, finite.
        counts: the sizes to choose from.
        budgets: what the sizes may cost.
        effort: how long to search.

    Raises:
        ConfigError: no sizes are within the budgets; the message has the least cost that can be had.
    """
    least = sum(min(errors[group]) for group in counts)
    choice = greedy_choice(errors, counts, budgets)
    greedy = None if choice is None else described(choice, counts, budgets, errors)
    if greedy is not None and greedy.error <= least:
        return replace(greedy, gap=0.0)
    if not counts:
        raise unreachable(counts, budgets)
    # An error above that of a choice at hand is in no better one, so it needn't be looked at. Without such a choice
    # (where smaller sizes may cost more, two steps together may save what none does) the largest errors are the scale.
    above = sum(max(errors[group]) for group in counts) - least if greedy is None else greedy.error - least
    scale = above or 1.0
    weights = {g: (np.asarray(errors[g], dtype=np.float64) - min(errors[g])) / scale for g in counts}
    program = Program(counts, [b.cost for b in budgets])
    found = program.solve(weights, [b.limit for b in budgets], effort=effort or Effort(), most=1 + 1e-9)
    best = greedy if found.choice is None else described(found.choice, counts, budgets, errors)
    if best is None:
        raise unreachable(counts, budgets)
    if greedy is not None and greedy.error < best.error:
        best = greedy
    missing = max(0.0, best.error - (found.bound * scale + least))
    return replace(best, gap=missing / abs(best.error) if best.error else 0.0, stopped=found.stopped)
