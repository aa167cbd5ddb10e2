"""Solutions of mixed precision against trying out every assignment."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.analysis.precision.problem import evaluate, is_feasible
from graphopt.analysis.precision.program import EFFORT, least_cost, least_error
from graphopt.analysis.precision.types import Border, Regions
from graphopt.errors import ConfigError
from tests.support.random_precision import every_solution, random_problem

Sets = tuple[tuple[str, ...], ...]

TWO = (("float32", "int8"), ("float32", "int8"), ("float32",))
BOTH = (("float32", "int8"), ("float32", "float16"), ("float32", "int4-weights"))
THREE = (("float32", "float16", "int8"), ("float32", "int8"))
FOUR = (("float32", "float16", "int16x8", "int8"), ("float32", "int8", "int4-weights"), ("float32",))
MANY = [(TWO, 10), (BOTH, 9), (THREE, 7), (FOUR, 6)]


@pytest.mark.parametrize(("sets", "count"), MANY)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from([0.0, 0.4]))
def test_no_assignment_has_less_error_within_a_budget(
    sets: Sets, count: int, seed: int, part: float, sparse: float
) -> None:
    problem = random_problem(seed, count, sets, sparse=sparse)
    every = every_solution(problem)
    budget = sorted(s.cost for s in every)[int(part * (len(every) - 1))]  # one assignment meets it to the last digit
    found = least_error(problem, budget)
    assert found == evaluate(problem, found.precisions)
    assert is_feasible(problem, found.precisions)
    assert found.cost <= budget * (1 + 1e-9)
    least = [min(s.error for s in every if s.cost <= budget * (1 + slack)) for slack in (2e-9, 0)]
    assert least[0] * (1 - 1e-5) - 1e-18 <= found.error <= least[1] * (1 + 1e-5) + 1e-18


@pytest.mark.parametrize(("sets", "count"), MANY)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from([0.0, 0.4]))
def test_no_assignment_costs_less_within_an_error(
    sets: Sets, count: int, seed: int, part: float, sparse: float
) -> None:
    problem = random_problem(seed, count, sets, sparse=sparse)
    every = every_solution(problem)
    limit = sorted(s.error for s in every)[int(part * (len(every) - 1))]
    found = least_cost(problem, limit)
    assert found == evaluate(problem, found.precisions)
    assert is_feasible(problem, found.precisions)
    assert found.error <= limit * (1 + 1e-9)
    least = [min(s.cost for s in every if s.error <= limit * (1 + slack)) for slack in (2e-9, 0)]
    assert least[0] * (1 - 1e-6) <= found.cost <= least[1] * (1 + 1e-6)


@pytest.mark.parametrize("sets", [TWO, FOUR])
def test_what_cannot_be_reached_names_what_can(sets: Sets) -> None:
    problem = random_problem(1, 6, sets)
    every = every_solution(problem)
    least = min(s.cost for s in every)
    with pytest.raises(ConfigError, match=rf"a budget of {500 * least:.4g} ms .* the least is {1000 * least:.4g} ms"):
        least_error(problem, least / 2)
    assert least_error(problem, least).cost == pytest.approx(least)
    pinned = replace(
        problem, choices={r: tuple(p for p in c if p != "float32") or c for r, c in problem.choices.items()}
    )
    least = min(s.error for s in every_solution(pinned))
    with pytest.raises(ConfigError, match=rf"an error of {least / 2:.3g} .* the least is {least:.3g}"):
        least_cost(pinned, least / 2)


def test_pins_that_no_reader_can_serve_are_an_error() -> None:
    """Both need a reader in their own form, and have the same one."""
    problem = random_problem(0, 3, [("float32", "int8", "int16x8")], needs=0.0)
    regions = tuple(replace(r, needs_reader=r.name != "r2") for r in problem.regions.regions)
    borders = tuple(Border(f"{name}.y", name, ("r2",)) for name in ("r0", "r1"))
    choices = {"r0": ("int8",), "r1": ("int16x8",), "r2": ("float32", "int8", "int16x8")}
    pinned = replace(problem, regions=Regions(regions, borders), choices=choices)
    assert not every_solution(pinned)
    with pytest.raises(ConfigError, match="the reader that its precision needs"):
        least_error(pinned, math.inf)


def test_a_hundred_and_fifty_regions_are_proven() -> None:
    """Within the numbers of branches that are looked at, not within a time."""
    problem = random_problem(0, 150, FOUR)
    ends = [least_error(problem, math.inf), least_cost(problem, math.inf)]
    budget = sum(s.cost for s in ends) / 2
    found = least_error(problem, budget, effort=replace(EFFORT, time_limit=math.inf))
    assert found.proven
    assert found.cost <= budget * (1 + 1e-9)
    assert ends[0].error <= found.error < ends[1].error
    again = least_cost(problem, found.error)
    assert again.cost <= found.cost * (1 + 1e-9)
    assert least_error(problem, budget) == found
