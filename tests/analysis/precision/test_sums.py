"""What solvers are given says the same as the definition of error and cost, assignment by assignment."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.analysis.precision.problem import evaluate, is_feasible
from graphopt.analysis.precision.sums import sums_of
from graphopt.errors import ConfigError, InternalError
from tests.support.random_precision import random_problem

SETS = (
    ("float32",), ("float32", "int8"), ("float32", "int8", "float16"), ("int16x8", "int8"),
    ("float32", "int4-weights"), ("float32", "float16-weights", "int16x8", "int8"),
)  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([0.0, 0.5]))
def test_the_sums_are_those_of_the_definition(seed: int, count: int, sparse: float) -> None:
    problem = random_problem(seed, count, SETS, sparse=sparse)
    names = [region.name for region in problem.regions.regions]
    every = [dict(zip(names, found, strict=True)) for found in itertools.product(*(problem.choices[n] for n in names))]
    try:
        terms = sums_of(problem)
    except ConfigError:
        assert not any(is_feasible(problem, precisions) for precisions in every)
        return
    for precisions in every:
        left = all(precisions[name] in terms.choices[name] for name in names)
        assert is_feasible(problem, precisions) == (left and terms.allows(precisions))
        if left:
            paid, solution = terms.of(precisions), evaluate(problem, precisions)
            assert paid.error * terms.units[0] == pytest.approx(solution.error, rel=1e-12, abs=1e-18)
            assert paid.cost * terms.units[1] + problem.costs.fixed == pytest.approx(solution.cost, rel=1e-12)
            assert max(paid) <= 2**64 * (1 + 1e-12)


def test_a_term_is_about_several_regions() -> None:
    """What one region decides alone is in its own sums."""
    terms = sums_of(random_problem(3, 30, SETS))
    assert terms.terms
    for term in terms.terms:
        assert len(term.any_of) > 1 or term.unless is not None
        for literal in (*term.any_of, *([term.unless] if term.unless else [])):
            assert 0 < len(literal.precisions) < len(terms.choices[literal.region])


def test_pins_that_contradict_each_other_are_named() -> None:
    problem = random_problem(0, 2, [("float32", "int8")], needs=1.0)
    pinned = replace(problem, choices={"r0": ("int8",), "r1": ("float32",)})
    with pytest.raises(ConfigError, match=r"'r0' \(Conv\) can't run in int8 alone: nothing that reads its result can"):
        sums_of(pinned)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_what_is_no_error_is_found(value: float) -> None:
    problem = random_problem(0, 3, [("float32", "int8")])
    tensors = {**problem.sensitivity.tensors, ("r0.y", "int8"): value}
    with pytest.raises(InternalError, match=r"the tensor 'r0\.y' in int8"):
        sums_of(replace(problem, sensitivity=replace(problem.sensitivity, tensors=tensors)))
