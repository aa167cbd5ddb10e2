"""The best assignment under a limit, exactly: the least error within a budget, or the least cost within an error.

The corners of the hull next to the limit (`hull`) are what the program (`linear`) starts from.
"""

from __future__ import annotations

from graphopt.analysis.highs import Effort, within
from graphopt.analysis.precision.hull import Hull
from graphopt.analysis.precision.problem import evaluate
from graphopt.analysis.precision.sums import sums_of
from graphopt.analysis.precision.terms import cost_of, error_of
from graphopt.analysis.precision.types import CostKind, Problem, Solution
from graphopt.errors import ConfigError

EFFORT = Effort(gap=1e-6, node_limit=5000, time_limit=20.0)


def least_error(problem: Problem, budget: float, *, effort: Effort = EFFORT) -> Solution:
    """The assignment with the least error whose cost is at most `budget`, in the unit of the problem's costs.

    Where the search is stopped, the best one found (`proven` False).

    Raises:
        ConfigError: none costs so little; the message has the least cost that can be had.
    """
    hull = Hull(sums_of(problem), effort)
    cheapest = evaluate(problem, hull.cheapest().precisions)
    if not within(cheapest.cost, budget):
        unit = problem.costs.kind
        raise ConfigError(
            f"a budget of {_cost(unit, budget)} can't be reached by precision: the least is "
            f"{_cost(unit, cheapest.cost)}; ask for more, or allow more precisions"
        )
    return within_limit(problem, hull, max(budget, cheapest.cost), of_cost=True, effort=effort)


def least_cost(problem: Problem, max_error: float, *, effort: Effort = EFFORT) -> Solution:
    """The assignment with the least cost whose error is at most `max_error`, a relative power of noise.

    Where the search is stopped, the best one found (`proven` False).

    Raises:
        ConfigError: none has so little error; the message has the least error that can be had.
    """
    hull = Hull(sums_of(problem), effort)
    best = evaluate(problem, hull.most_accurate().precisions)
    if not within(best.error, max_error):
        raise ConfigError(
            f"an error of {max_error:.3g} can't be reached: the least is {best.error:.3g}; "
            "ask for less accuracy, or leave float32 to more regions"
        )
    return within_limit(problem, hull, max(max_error, best.error), of_cost=False, effort=effort)


def within_limit(problem: Problem, hull: Hull, limit: float, *, of_cost: bool, effort: Effort) -> Solution:
    """The best assignment under a limit that one of the hull's ends keeps to."""
    goal, size = (error_of, cost_of) if of_cost else (cost_of, error_of)
    unit = hull.terms.units[of_cost]
    # What `within` grants, of the whole limit, `fixed` included. No sum is above 2**66.
    most = round(min((limit * (1 + 1e-9) - (problem.costs.fixed if of_cost else 0.0)) / unit, 2.0**66))
    inside, outside = hull.around(most, of_cost=of_cost)
    if outside is None:
        return evaluate(problem, inside.precisions, proven=inside.proven)
    best = hull.linear.minimise(goal, effort, inside.precisions, size, most)
    assert best.precisions is not None  # it starts from one
    return evaluate(problem, best.precisions, proven=best.proven)


def _cost(kind: CostKind, value: float) -> str:
    if kind == "latency":
        return f"{1e3 * value:.4g} ms"
    return f"{value:,.0f} bytes" if kind == "size" else f"{value:,.0f} multiply-accumulate bits"
