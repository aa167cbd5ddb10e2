"""The front of mixed precision against all assignments, and the greedy baseline against it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.analysis.precision.front import front, undominated
from graphopt.analysis.precision.greedy import greedy_curve, local_error
from graphopt.analysis.precision.problem import evaluate, is_feasible
from graphopt.analysis.precision.program import least_cost, least_error
from graphopt.analysis.precision.types import Border, Costs, Problem, Region, Regions, Sensitivity
from tests.support.random_precision import every_solution, random_problem

TWO = (("float32", "int8"), ("float32", "int8"), ("float32",))
THREE = (("float32", "float16", "int8"), ("float32", "int8"))


@pytest.mark.parametrize("sets", [TWO, THREE])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_no_assignment_is_better_in_both(sets: tuple[tuple[str, ...], ...], seed: int) -> None:
    problem = random_problem(seed, 6, sets)
    found = front(problem, points=12)
    every = every_solution(problem)
    assert found[0].cost == pytest.approx(min(s.cost for s in every))
    assert found[-1].error == pytest.approx(min(s.error for s in every), abs=1e-18)
    assert len(found) <= 12
    for solution in found:
        assert is_feasible(problem, solution.precisions)
        assert solution == evaluate(problem, solution.precisions)
        assert not [
            s for s in every
            if s.cost < solution.cost * (1 - 1e-6) and s.error < solution.error * (1 - 1e-3)
        ]  # fmt: skip
    for one, next_ in itertools.pairwise(found):
        assert one.cost < next_.cost
        assert one.error > next_.error


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_a_small_front_is_found_whole_but_for_neighbours(seed: int) -> None:
    """Asked for more points than there are, every point of the front is near one that was found."""
    problem = random_problem(seed, 5, TWO, needs=0.0)
    whole = undominated(every_solution(problem))
    found = front(problem, points=100)
    assert {s.cost for s in found} <= {s.cost for s in whole}
    assert len(found) >= (len(whole) + 1) // 2


def test_the_greedy_curve_is_never_better() -> None:
    """At equal cost: the front at or below each of its points has no more error."""
    for seed in range(5):
        problem = random_problem(seed, 9, TWO)
        every = every_solution(problem)
        curve = greedy_curve(problem)
        assert curve[-1].error == min(s.error for s in every if s.cost <= curve[-1].cost)
        for solution in curve:
            assert is_feasible(problem, solution.precisions)
            assert any(s.cost <= solution.cost and s.error <= solution.error for s in undominated(every))


def test_greedy_drops_the_worst_layer_first_and_what_needed_it() -> None:
    regions = (
        Region("a", "Conv", ("a",), (), ("float32", "int8"), (), "a.y"),
        Region("add", "Add", ("add",), (), ("float32", "int8"), (), "add.y", needs_reader=True),
        Region("b", "Conv", ("b",), (), ("float32", "int8"), (), "b.y", writes_form=True),
        Region("last", "Softmax", ("last",), (), ("float32",), (), "last.y"),
    )
    borders = (
        Border("x", None, ("a",)), Border("a.y", "a", ("add",)), Border("add.y", "add", ("b",)),
        Border("b.y", "b", ("last",)),
    )  # fmt: skip
    weights = {("a", "int8"): 0.01, ("b", "int8"): 0.02}
    tensors = {("x", "int8"): 0.001, ("add.y", "int8"): 0.003, ("b.y", "int8"): 0.004, ("a.y", "int8"): 0.1}
    problem = Problem(
        Regions(regions, borders), {r.name: r.precisions for r in regions}, Sensitivity("local", weights, tensors),
        Costs("bits", {(n, p): c for n in "ab" for p, c in (("int8", 1.0), ("float32", 4.0))}, {}),
    )  # fmt: skip
    assert local_error(problem, regions[2], "int8") == pytest.approx(0.02 + 0.003 + 0.004)
    curve = greedy_curve(problem)
    integer = [{r for r, p in s.precisions.items() if p == "int8"} for s in curve]
    # The Add reads a.y, which loses most; then b (its weights, what it reads, what it writes); a is the last.
    assert integer == [{"a", "add", "b"}, {"a", "b"}, {"a"}, set()]
    assert [s.cost for s in curve] == [2, 2, 5, 8]
    assert curve[-1].error == 0
    without_b = greedy_curve(
        Problem(problem.regions, {**problem.choices, "b": ("float32",)}, problem.sensitivity, problem.costs)
    )
    assert [{r for r, p in s.precisions.items() if p == "int8"} for s in without_b] == [{"a"}, set()]


def test_a_front_of_a_large_network_is_the_same_twice() -> None:
    problem = random_problem(5, 150, TWO)
    found = front(problem)
    assert len(found) == 24
    assert front(problem) == found


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("left_out", ["errors", "costs", "both"])
def test_tables_may_be_empty(count: int, left_out: str) -> None:
    """A model without layers, sizes that aren't known, or no sensitivity: one point, or none to choose between."""
    problem = random_problem(1, 4, TWO)
    regions = Regions(problem.regions.regions[:count], problem.regions.borders if count == 4 else ())
    sensitivity = Sensitivity("local", {}, {}) if left_out != "costs" else problem.sensitivity
    costs = Costs("bits", {}, {}, 7.0) if left_out != "errors" else problem.costs
    problem = Problem(regions, {r.name: r.precisions for r in regions.regions}, sensitivity, costs)
    (only,) = front(problem)
    every = every_solution(problem)
    assert (only.cost, only.error) == (min(s.cost for s in every), min(s.error for s in every))
    for best in (least_error(problem, only.cost), least_cost(problem, only.error)):
        assert best.cost == pytest.approx(only.cost)
        assert best.error == pytest.approx(only.error)
