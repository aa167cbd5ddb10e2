"""The error of each group at each size that it may have, from the order in which its units go.

sizes 8, 16, 24 of 24 units    →    cost of the first 16, of the first 8, and 0
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.analysis.coupling.groups import Kept
from graphopt.analysis.pruning.elimination import Ranking
from graphopt.analysis.pruning.kept_counts import KeptCounts


def error_curves(
    rankings: Mapping[str, Ranking], counts: KeptCounts, weights: Mapping[str, float] | None = None
) -> dict[str, list[float]]:
    """For each group, the error at each of its sizes, to choose sizes by (`allocation.allocate`).

    No data is read: a ranking has what is lost when a unit and all before it are gone. Costs that aren't finite become
    larger than all others together, so that such a size is chosen only where there is no other way.

    Args:
        rankings: of each group in `counts`.
        counts: the sizes to choose from.
        weights: what a group's costs are multiplied with to make them comparable; 1 for groups that aren't named.
    """
    found: dict[str, list[float]] = {}
    for group, sizes in counts.items():
        lost = np.concatenate([[0.0], rankings[group].cost])
        found[group] = [float(lost[sizes[-1] - size]) * (weights or {}).get(group, 1.0) for size in sizes]
    finite = [error for curve in found.values() for error in curve if np.isfinite(error)]
    worst = 2 * sum(np.abs(finite)) + 1
    return {group: [e if np.isfinite(e) else worst for e in curve] for group, curve in found.items()}


def kept_units(ranking: Ranking, size: int) -> Kept:
    """Which units stay when `size` of them do: [units]."""
    stays = np.ones(len(ranking.order), dtype=bool)
    stays[ranking.order[: len(ranking.order) - size]] = False
    return stays
