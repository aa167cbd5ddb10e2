"""How much each unit of a coupling group matters: what pruning goes by. Pure arithmetic on what is known of a group.

A criterion takes an `Evidence` and gives a `Ranking`: the units in the order in which they go, and what has been lost
after each. `IMPORTANCE` has them by name. Those that only give a score a unit have the sorted order and summed scores.

So that units of different groups can be compared (scope = global), scores of weights and activations are divided by
their group's mean, as in Molchanov et al. ("Importance Estimation for Neural Network Pruning", CVPR 2019) and
Torch-Pruning; `reconstruction` and `hessian` are shares of a result's energy, which needs no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.coupling.groups import Group
from graphopt.analysis.pruning.elimination import Array, Contraction, Ranking, by_unit, damped_inverse, eliminate
from graphopt.analysis.pruning.unit_weights import reading_weights, scales, writing_weights
from graphopt.errors import ConfigError, nearest
from graphopt.ir import Graph

Need = Literal["activity", "moments"]


@dataclass(frozen=True)
class Activity:
    """What the samples show of the units of a group in one activation; all [units], sums over a unit's elements.

    Attributes:
        magnitude: E|a|.
        variance: of each element around its own mean.
        density: the share of values that aren't 0 (a mean over the elements).
    """

    magnitude: Array
    variance: Array
    density: Array


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at. Criteria that need more (gradients, say) get a field and a `Need` of their own.

    Attributes:
        graph: with its weights.
        group: the one whose units are ranked.
        activities: by the name of the tensor, of what the layers behind read; empty without samples.
        contractions: the layers that sum over the units; empty without samples, and where nothing does.
        seed: for criteria that draw lots.
    """

    graph: Graph
    group: Group
    activities: Mapping[str, Activity] = field(default_factory=dict[str, Activity])
    contractions: Sequence[Contraction] = ()
    seed: int = 0


Score = Callable[[Evidence], NDArray[np.float64]]
"""[units], the larger the more a unit matters."""

Rank = Callable[[Evidence], Ranking]


@dataclass(frozen=True)
class Importance:
    """A criterion.

    Attributes:
        name: what the user writes.
        summary: one line of help.
        rank: what it does.
        needs: what it has to be given of the samples; nothing where weights are enough.
        costs_errors: whether its costs are errors, which can be compared between groups; those of others are scores.
    """

    name: str
    summary: str
    rank: Rank
    needs: frozenset[Need] = frozenset()
    costs_errors: bool = False


def find_importance(name: str) -> Importance:
    """The criterion of that name.

    Raises:
        ConfigError: there is none.
    """
    found = IMPORTANCE.get(name)
    if found is None:
        raise ConfigError(
            f"there is no importance '{name}': {nearest(name, IMPORTANCE)} Your own is module:function, which takes an "
            f"Evidence and returns one number for each unit"
        )
    return found


def scored(score: Score, name: str) -> Rank:
    """The ranking that sorts by a score, which is divided by its mean over the group.

    The ranking raises:
        ConfigError: the scores aren't one finite number ≥ 0 for each unit.
    """

    def rank(evidence: Evidence) -> Ranking:
        found = np.asarray(score(evidence), np.float64)
        group = evidence.group
        if found.shape != (group.units,) or not np.isfinite(found).all() or (found < 0).any():
            raise ConfigError(
                f"importance '{name}' has to give group '{group.name}' {group.units} finite numbers ≥ 0, one for each "
                f"unit; it gave {found.dtype} {list(found.shape)}"
            )
        mean = float(found.mean())
        return Ranking.of(found / mean if mean > 0 else found)

    return rank


def _l1(evidence: Evidence) -> Array:
    weights = [*writing_weights(evidence.graph, evidence.group), *reading_weights(evidence.graph, evidence.group)]
    return _total([np.abs(rows).sum(axis=1) for rows in weights], evidence.group)


def _l2(evidence: Evidence) -> Array:
    weights = [*writing_weights(evidence.graph, evidence.group), *reading_weights(evidence.graph, evidence.group)]
    return np.sqrt(_total([np.square(rows).sum(axis=1) for rows in weights], evidence.group))


def _batch_norm_scale(evidence: Evidence) -> Array:
    found = scales(evidence.graph, evidence.group)
    if not found:
        raise ConfigError(
            f"importance 'bn-scale' needs BatchNormalization nodes, and group '{evidence.group.name}' has none (were "
            f"they folded into the layers?): put the pass before fold-batch-norm, or use another importance"
        )
    return _total([np.abs(rows).sum(axis=1) for rows in found], evidence.group)


def _geometric_median(evidence: Evidence) -> Array:
    """Distance to the other units' filters: the one nearest to all is the one that they can replace."""
    group = evidence.group
    weights = list(writing_weights(evidence.graph, group)) or list(reading_weights(evidence.graph, group))
    squares = np.zeros((group.units, group.units))
    for rows in weights:
        norms = np.square(rows).sum(axis=1)
        squares += np.maximum(norms[:, None] + norms - 2 * rows @ rows.T, 0.0)
    return np.sqrt(squares).sum(axis=1)


def _activation(evidence: Evidence) -> Array:
    return _total([activity.magnitude for activity in evidence.activities.values()], evidence.group)


def _nonzero(evidence: Evidence) -> Array:
    return _total([activity.density for activity in evidence.activities.values()], evidence.group)


def _wanda(evidence: Evidence) -> Array:
    if not evidence.contractions:
        return _activation(evidence)
    units = evidence.group.units
    return np.sum([by_unit(_products(problem), problem.units, units) for problem in evidence.contractions], axis=0)


def _products(problem: Contraction) -> Array:
    """|w|·‖x‖ summed over outputs, [k]."""
    found: Array = np.abs(problem.weight).sum(axis=0) * np.sqrt(np.maximum(problem.mean_square, 0.0))
    return found


def _hessian(evidence: Evidence) -> Ranking:
    if not evidence.contractions:
        return _energy(evidence)
    total = np.zeros(evidence.group.units)
    for problem in evidence.contractions:
        if problem.energy > 0:
            inverse = np.diagonal(damped_inverse(problem.second))
            cost = np.square(problem.weight).sum(axis=0) / inverse / problem.energy
            total += by_unit(cost, problem.units, evidence.group.units)
    return Ranking.of(total)


def _reconstruction(evidence: Evidence) -> Ranking:
    problems = [problem for problem in evidence.contractions if problem.energy > 0]
    return eliminate(problems, evidence.group.units) if problems else _energy(evidence)


def _energy(evidence: Evidence) -> Ranking:
    """Shares of the activations' variance: what is lost where no layer with stored weights sums over the units."""
    total = np.zeros(evidence.group.units)
    for activity in evidence.activities.values():
        whole = float(activity.variance.sum())
        if whole > 0:
            total += activity.variance / whole
    return Ranking.of(total)


def _random(evidence: Evidence) -> Array:
    seed = np.random.SeedSequence([evidence.seed, crc32(evidence.group.name.encode())])
    return np.random.default_rng(seed).random(evidence.group.units)


def _total(parts: Sequence[Array], group: Group) -> Array:
    return np.sum(parts, axis=0) if parts else np.zeros(group.units)


_ACTIVITY: frozenset[Need] = frozenset({"activity"})
_MOMENTS: frozenset[Need] = frozenset({"activity", "moments"})

IMPORTANCE: Mapping[str, Importance] = {
    found.name: found
    for found in (
        Importance("l1", "sum of |w| over all weights of the unit", scored(_l1, "l1")),
        Importance("l2", "root of the sum of w² over all weights of the unit", scored(_l2, "l2")),
        Importance(
            "bn-scale", "|scale| of its BatchNormalization (Liu et al. 2017)", scored(_batch_norm_scale, "bn-scale")
        ),
        Importance("fpgm", "distance to the other units' filters (He et al. 2019)", scored(_geometric_median, "fpgm")),
        Importance("activation", "mean |a| on the samples", scored(_activation, "activation"), _ACTIVITY),
        Importance("apoz", "share of values that aren't 0 (Hu et al. 2016)", scored(_nonzero, "apoz"), _ACTIVITY),
        Importance("wanda", "|w|·‖x‖ of what reads it (Sun et al. 2024)", scored(_wanda, "wanda"), _MOMENTS),
        Importance(
            "reconstruction", "error of what reads it after the best refit, one unit after another", _reconstruction,
            _MOMENTS, costs_errors=True,
        ),
        Importance(
            "hessian", "w²/[H⁻¹] of what reads it (optimal brain surgeon)", _hessian, _MOMENTS, costs_errors=True,
        ),
        Importance("random", "by lot: a baseline", scored(_random, "random")),
    )
}  # fmt: skip
