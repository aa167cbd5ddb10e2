"""What became of each group, for the record."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.analysis.coupling.groups import Coupling, Group, Kept
from graphopt.analysis.macs import linear_kind
from graphopt.analysis.pruning.elimination import Ranking
from graphopt.analysis.pruning.elimination_record import FrozenGroup, GroupElimination
from graphopt.analysis.pruning.kept_counts import channels_each
from graphopt.ir import Constant, Graph
from graphopt.passes._elimination_sizes import Sizing

_BINS = 10


def outcomes(
    graph: Graph, coupling: Coupling, keep: Mapping[str, Kept], sizing: Sizing
) -> tuple[GroupElimination, ...]:
    """One for each group that could have lost units; before anything is removed."""
    found: list[GroupElimination] = []
    for group in coupling.removable:
        stays = keep.get(group.name)
        removed = () if stays is None else tuple(int(unit) for unit in np.flatnonzero(~stays))
        ranking = sizing.rankings.get(group.name)
        reason = "" if removed or group.name in sizing.counts else "it has no smaller size that may be chosen"
        found.append(
            GroupElimination(
                group.name,
                layers_of(graph, group),
                group.units,
                removed,
                channels_each(group),
                None if ranking is None else _lost(ranking, len(removed)),
                None if ranking is None else _histogram(ranking),
                reason,
            )
        )
    return tuple(found)


def frozen_groups(graph: Graph, coupling: Coupling) -> tuple[FrozenGroup, ...]:
    """Groups that can't lose units, though a weight runs through them."""
    frozen = [(group, group.frozen, layers_of(graph, group)) for group in coupling.groups]
    return tuple(
        FrozenGroup(group.name, layers, group.units, freeze.reason)
        for group, freeze, layers in frozen
        if freeze is not None and layers
    )


def layers_of(graph: Graph, group: Group) -> tuple[str, ...]:
    """Names of the linear layers whose weights the group runs through, in graph order."""
    weights = {id(slot.tensor) for slot in group.members if isinstance(slot.tensor, Constant)}
    return tuple(n.name for n in graph.nodes if linear_kind(n) and any(id(t) in weights for t in n.inputs[:2]))


def _lost(ranking: Ranking, count: int) -> float:
    return float(ranking.cost[count - 1]) if count else 0.0


def _histogram(ranking: Ranking) -> tuple[int, ...]:
    """Units by importance, in tenths of the largest."""
    scores = ranking.scores
    finite = scores[np.isfinite(scores)]
    largest = float(finite.max(initial=0.0))
    shares = np.clip(finite / largest, 0.0, 1.0) if largest > 0 else np.zeros(len(finite))
    return tuple(int(count) for count in np.histogram(shares, bins=_BINS, range=(0.0, 1.0))[0])
