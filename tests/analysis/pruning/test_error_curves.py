"""From rankings to errors at sizes, and to the units that stay."""

from __future__ import annotations

import numpy as np

from graphopt.analysis.pruning.allocation import allocate
from graphopt.analysis.pruning.budgets import Budget
from graphopt.analysis.pruning.cost_tables import tabulate
from graphopt.analysis.pruning.count_polynomial import CountPolynomial
from graphopt.analysis.pruning.elimination import Ranking
from graphopt.analysis.pruning.error_curves import error_curves, kept_units

RANKING = Ranking(np.array([2, 0, 3, 1]), np.array([1.0, 3.0, 7.0, 20.0]))


def test_a_size_costs_what_all_units_that_go_have_cost() -> None:
    assert error_curves({"a": RANKING}, {"a": (1, 2, 4)}) == {"a": [7.0, 3.0, 0.0]}
    assert error_curves({"a": RANKING}, {"a": (3, 4)}, {"a": 0.5, "b": 3}) == {"a": [0.5, 0.0]}


def test_the_last_in_the_order_stay() -> None:
    assert kept_units(RANKING, 1).tolist() == [False, True, False, False]
    assert kept_units(RANKING, 3).tolist() == [True, True, False, True]
    assert kept_units(RANKING, 4).all()


def test_what_has_no_finite_cost_goes_last() -> None:
    rankings = {"a": RANKING, "b": Ranking(np.arange(4), np.array([np.inf, np.inf, np.inf, np.inf]))}
    counts = {"a": (1, 4), "b": (1, 4)}
    cost = tabulate(CountPolynomial({("a",): 1, ("b",): 1}), counts, {})
    for limit, kept in ((5, {"a": 1, "b": 4}), (2, {"a": 1, "b": 1})):
        assert allocate(error_curves(rankings, counts), counts, [Budget("units", cost, limit)]).kept == kept
