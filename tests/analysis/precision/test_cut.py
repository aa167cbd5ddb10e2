"""Minimum cuts of two precisions against trying out every assignment, and against the program."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.analysis.highs import Effort
from graphopt.analysis.precision.cut import cut_of
from graphopt.analysis.precision.linear import Linear
from graphopt.analysis.precision.problem import evaluate
from graphopt.analysis.precision.sums import sums_of
from tests.support.random_precision import every_solution, random_problem

FLOAT_OR_INTEGER = (("float32", "int8"), ("float32", "int8"), ("float32",))
SEVERAL_PAIRS = (("int8", "float32"), ("float32", "float16"), ("float32", "int4-weights"), ("float32", "int16x8"))
SEEDS, FACTORS = st.integers(0, 10**6), st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 1e3, 1e6])


@pytest.mark.parametrize("sets", [FLOAT_OR_INTEGER, SEVERAL_PAIRS])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(SEEDS, FACTORS, st.sampled_from([0.0, 0.5]))
def test_a_cut_is_the_least_of_all(sets: tuple[tuple[str, ...], ...], seed: int, factor: float, sparse: float) -> None:
    problem = random_problem(seed, 8, sets, sparse=sparse)
    terms = sums_of(problem)
    cut = cut_of(terms)
    assert cut is not None
    errors, costs = 2**40, round(2**40 * factor)
    found = cut.least(errors, costs)
    every = [terms.of(s.precisions) for s in every_solution(problem)]
    least = min(errors * paid.error + costs * paid.cost for paid in every)
    value = errors * terms.of(found).error + costs * terms.of(found).cost
    # A need of any of several readers is left out: then it is a bound, and the assignment says so itself.
    assert value == least if terms.allows(found) else value <= least
    assert terms.allows(found) or any(len(need.any_of) > 1 for need in terms.needs)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(SEEDS, FACTORS)
def test_cut_and_program_agree(seed: int, factor: float) -> None:
    terms = sums_of(random_problem(seed, 40, SEVERAL_PAIRS, needs=0.0))
    cut = cut_of(terms)
    assert cut is not None
    errors, costs = 2**40, round(2**40 * factor)
    by_program = Linear(terms).minimise(lambda p: errors * p.error + costs * p.cost, Effort(gap=1e-9), None)
    assert by_program.precisions is not None
    assert by_program.proven
    here, there = (terms.of(precisions) for precisions in (cut.least(errors, costs), by_program.precisions))
    value = errors * here.error + costs * here.cost
    assert value <= errors * there.error + costs * there.cost  # it is exact
    assert errors * there.error + costs * there.cost <= value * (1 + 1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SEEDS, st.data())
def test_errors_and_costs_of_two_precisions_are_submodular(seed: int, data: st.DataObject) -> None:
    """f(a ∩ b) + f(a ∪ b) ≤ f(a) + f(b): what the cut stands on, of the definition itself."""
    problem = random_problem(seed, 8, FLOAT_OR_INTEGER)
    names = [r for r, choices in problem.choices.items() if len(choices) > 1]
    first, second = (set(data.draw(st.lists(st.sampled_from(names or ["r0"])))) for _ in range(2))

    def solution(integer: set[str]) -> tuple[float, float]:
        found = evaluate(problem, {r: "int8" if r in integer and r in names else "float32" for r in problem.choices})
        return found.error, found.cost

    both, either, a, b = (solution(x) for x in (first & second, first | second, first, second))
    for k in range(2):
        assert both[k] + either[k] <= (a[k] + b[k]) * (1 + 1e-12)


def test_what_no_cut_can_say_is_left_to_the_program() -> None:
    three = random_problem(0, 6, [("float32", "int8", "float16")])
    # A tensor that float32, int8 and float16 are read of: each of two of them would have to be on one side.
    triangle = random_problem(0, 12, [("float32", "int8"), ("float32", "float16"), ("int8", "float16")], needs=0.0)
    assert cut_of(sums_of(three)) is None
    assert cut_of(sums_of(triangle)) is None
