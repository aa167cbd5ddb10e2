"""The sizes that are chosen under budgets, against trying out all of them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.analysis.highs import Effort
from graphopt.analysis.pruning.allocation import allocate
from graphopt.analysis.pruning.budgets import Budget, Errors
from graphopt.analysis.pruning.cost_tables import CostTable, tabulate
from graphopt.analysis.pruning.count_polynomial import CountPolynomial
from graphopt.analysis.pruning.kept_counts import KeptCounts
from graphopt.analysis.pruning.simple_allocation import allocate_evenly, allocate_evenly_within, allocate_greedily
from graphopt.errors import ConfigError

EXACT = Effort(gap=0)


def random_problem(seed: int, monotone: bool) -> tuple[Errors, KeptCounts, CostTable]:
    """Up to five groups coupled through layers: [sizes of one] and [sizes of two] tables."""
    rng = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(rng.integers(1, 6))]
    counts = {g: tuple(sorted({8, *(8 * rng.integers(2, 9, rng.integers(1, 4))).tolist()})) for g in names}
    errors = {g: np.sort(rng.exponential(size=len(c)))[::-1].tolist() for g, c in counts.items()}

    def table(*shape: int) -> np.ndarray:
        values = rng.integers(1, 50, shape).astype(float)
        return np.cumsum(np.cumsum(values, -1), 0) if monotone else values

    single = {g: table(len(c)) for g, c in counts.items() if rng.random() < 0.7}
    pairs = {
        (g, h): table(len(counts[g]), len(counts[h])) for g, h in itertools.combinations(names, 2) if rng.random() < 0.6
    }
    return errors, counts, CostTable(float(rng.integers(0, 100)), single, pairs)


def every_choice(counts: KeptCounts) -> list[dict[str, int]]:
    return [
        dict(zip(counts, found, strict=True)) for found in itertools.product(*(range(len(c)) for c in counts.values()))
    ]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.booleans(), st.floats(0.05, 0.95))
def test_no_choice_is_better(seed: int, monotone: bool, part: float) -> None:
    errors, counts, cost = random_problem(seed, monotone)
    choices = every_choice(counts)
    costs = sorted(cost.of(choice) for choice in choices)
    limit = costs[int(part * (len(costs) - 1))]  # a limit that one choice meets to the last digit
    least = min(sum(errors[g][i] for g, i in c.items()) for c in choices if cost.of(c) <= limit)
    found = allocate(errors, counts, [Budget("units", cost, limit)], effort=EXACT)
    assert found.error == pytest.approx(least, rel=1e-6)
    assert found.costs == (cost.of(found.choice),)
    assert found.costs[0] <= limit
    assert found.kept == {g: counts[g][i] for g, i in found.choice.items()}
    assert not found.stopped
    assert found.gap == pytest.approx(0, abs=1e-5)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_budgets_hold_together(seed: int) -> None:
    errors, counts, macs = random_problem(seed, monotone=True)
    params = tabulate(CountPolynomial({(g,): 1.0 for g in counts}), counts, {})
    limits = [cost.of(dict.fromkeys(counts, 0)) * 1.7 for cost in (macs, params)]
    budgets = [Budget("MACs", macs, limits[0]), Budget("parameters", params, limits[1])]
    allowed = [c for c in every_choice(counts) if macs.of(c) <= limits[0] and params.of(c) <= limits[1]]
    found = allocate(errors, counts, budgets, effort=EXACT)
    assert found.error == pytest.approx(min(sum(errors[g][i] for g, i in c.items()) for c in allowed), rel=1e-6)
    assert all(cost <= limit for cost, limit in zip(found.costs, limits, strict=True))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.booleans())
def test_the_complaint_has_the_least_cost(seed: int, monotone: bool) -> None:
    errors, counts, cost = random_problem(seed, monotone)
    least = min(cost.of(choice) for choice in every_choice(counts))
    for method in (allocate, allocate_greedily):
        with pytest.raises(ConfigError, match=f"the least is {least:,.0f}, .*% of "):
            method(errors, counts, [Budget("MACs", cost, least * 0.99)])


def test_budgets_that_exclude_each_other_are_named() -> None:
    counts = {"a": (8, 16), "b": (8, 16)}
    rising = CostTable(0, {"a": np.array([1.0, 2.0])}, {})
    falling = CostTable(0, {"a": np.array([2.0, 1.0])}, {})
    budgets = [Budget("seconds", rising, 1), Budget("bytes", falling, 1)]
    with pytest.raises(ConfigError, match=r"can't be met together .* 1 seconds \(alone at least 1\), 1 bytes"):
        allocate({"a": (1, 0), "b": (1, 0)}, counts, budgets)


def test_errors_far_apart_are_told_apart() -> None:
    """A group that must not be touched is a billion times as bad; the solver's tolerances are absolute."""
    counts = {"bad": (8, 16), "a": (8, 16), "b": (8, 16)}
    errors = {"bad": (1e6, 0.0), "a": (2e-3, 0.0), "b": (1e-3, 0.0)}
    cost = tabulate(CountPolynomial({(g,): 1.0 for g in counts}), counts, {})
    found = allocate(errors, counts, [Budget("MACs", cost, 40)])
    assert found.kept == {"bad": 16, "a": 16, "b": 8}
    assert found.error == pytest.approx(1e-3)


def test_nothing_to_choose_is_either_fine_or_out_of_reach() -> None:
    cost = CostTable(10.0, {}, {})
    assert allocate({}, {}, [Budget("MACs", cost, 10)]).kept == {}
    with pytest.raises(ConfigError, match="the least is 10"):
        allocate({}, {}, [Budget("MACs", cost, 9)])


def test_a_budget_that_layers_without_groups_use_up_is_out_of_reach() -> None:
    counts = {"a": (8, 16)}
    cost = tabulate(CountPolynomial({("a",): 1e6, (): 1e9}), counts, {})
    for limit in (1e9, 0.0):
        with pytest.raises(ConfigError, match=r"the least is 1,008,000,000, 99\.2% of 1,016,000,000"):
            allocate({"a": (1.0, 0.0)}, counts, [Budget("MACs", cost, limit)])


def test_errors_that_are_all_the_same_still_meet_the_budget() -> None:
    counts = {"a": (8, 16), "b": (8, 16)}
    found = allocate(
        dict.fromkeys(counts, (0.0, 0.0)),
        counts,
        [Budget("MACs", tabulate(CountPolynomial({("a", "b"): 1.0}), counts, {}), 128)],
    )
    assert found.costs[0] <= 128


def test_greedy_takes_the_cheapest_step_first() -> None:
    counts = {"cheap": (8, 16), "dear": (8, 16)}
    errors = {"cheap": (1.0, 0.0), "dear": (5.0, 0.0)}
    cost = CostTable(0, {"cheap": np.array([1.0, 2.0]), "dear": np.array([1.0, 4.0])}, {})
    assert allocate_greedily(errors, counts, [Budget("MACs", cost, 5)]).kept == {"cheap": 8, "dear": 16}
    assert allocate_greedily(errors, counts, [Budget("MACs", cost, 4)]).kept == {"cheap": 8, "dear": 8}
    assert allocate_greedily(errors, counts, [Budget("MACs", cost, 6)]).kept == {"cheap": 16, "dear": 16}


def test_a_product_of_groups_counts_what_is_left_of_both() -> None:
    counts = {"a": (2, 4), "b": (1, 3)}
    cost = CountPolynomial({("a", "b"): 10, ("a", "a"): 1, ("c", "b"): 7, (): 5, ("c",): 1})
    table = tabulate(cost, counts, {"a": 4, "b": 3, "c": 6})
    for choice in every_choice(counts):
        kept = {g: counts[g][i] for g, i in choice.items()}
        assert table.of(choice) == cost.at({**kept, "c": 6})


def test_a_product_of_three_groups_is_never_taken_too_low() -> None:
    counts = {"a": (2, 4), "b": (1, 4), "c": (3, 4)}
    cost = CountPolynomial({("a", "b", "c"): 1, ("b", "c", "c"): 2})
    table = tabulate(cost, counts, {"a": 4, "b": 4, "c": 4})
    for choice in every_choice(counts):
        kept = {g: counts[g][i] for g, i in choice.items()}
        assert table.of(choice) >= cost.at(kept)
    whole = dict.fromkeys(counts, 1)
    assert table.of(whole) == cost.at(dict.fromkeys(counts, 4))


def test_even_sizes_are_the_nearest_ones() -> None:
    counts = {"a": (8, 16, 24, 32), "b": (3, 6)}
    assert allocate_evenly(0.0, counts).kept == {"a": 32, "b": 6}
    assert allocate_evenly(0.4, counts).kept == {"a": 16, "b": 3}
    assert allocate_evenly(0.375, counts).kept == {"a": 24, "b": 3}  # 20 and 3.75: of two as near the larger
    for ratio in (-0.1, 1.0, math.nan):
        with pytest.raises(ConfigError, match="at least 0 and below 1"):
            allocate_evenly(ratio, counts)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.floats(0.2, 1))
def test_even_sizes_within_a_budget_lie_between_two_ratios(seed: int, part: float) -> None:
    _, counts, cost = random_problem(seed, monotone=True)
    budget = Budget("MACs", cost, cost.of(dict.fromkeys(counts, 0)) * (1 - part) + part * 4000)
    tried = [allocate_evenly(ratio, counts, [budget]) for ratio in np.linspace(0, 0.999, 1000)]
    first = next(i for i, found in enumerate(tried) if found.costs[0] <= budget.limit)
    found = allocate_evenly_within(counts, [budget])
    assert found.costs[0] <= budget.limit
    above = tried[max(first - 1, 0)]
    assert all(tried[first].kept[g] <= size <= above.kept[g] for g, size in found.kept.items())
    # No group can have the larger of its two sizes any more.
    for group, size in found.kept.items():
        if size < above.kept[group]:
            assert cost.of({**found.choice, group: above.choice[group]}) > budget.limit
