"""Which candidate ships, given what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from graphopt.api.preference import is_slower, prefer
from graphopt.backends.latency import Latency
from graphopt.report.precision import Candidate


def timed(speedup: float, spread: float = 0.02) -> Latency:
    """The median is known up to `spread` to both sides."""
    sure = speedup - spread, speedup + spread
    return Latency("E", 1, 25, 1, 0.01, 0.01 / speedup, speedup, *sure, *sure)


def candidate(name: str, **facts: object) -> Candidate:
    defaults: Mapping[str, object] = {
        "shares": {"float32": 1.0},
        "accuracy": None,
        "sqnr_db": 30.0,
        "value": 30.0,
        "holds": True,
        "weight_bytes": 1000,
    }
    return Candidate(name, **(dict(defaults) | facts))  # type: ignore[arg-type]  # the facts are named above


ORIGINAL = candidate("original", value=math.inf, sqnr_db=math.inf, cost_share=1.0)
FLOAT = candidate("float", value=120.0, latency=timed(1.1), cost_share=1.0)
INT8 = candidate("int8", weight_bytes=260, latency=timed(2.0), cost_share=0.4)
MIXED = candidate("mixed 3 of 9", weight_bytes=400, latency=timed(1.6), cost_share=0.5, value=35.0)


def changed(which: Candidate, **facts: object) -> Candidate:
    return Candidate(**{**vars(which), **facts})  # type: ignore[arg-type]  # as above


def shipped(*candidates: Candidate, keep_original: bool = True) -> str:
    best = prefer(candidates, keep_original=keep_original)
    assert best is not None
    return candidates[best.index].name


def test_the_fastest_that_is_above_the_floor() -> None:
    assert shipped(ORIGINAL, FLOAT, INT8, MIXED) == "int8"
    assert shipped(ORIGINAL, FLOAT, changed(INT8, holds=False), MIXED) == "mixed 3 of 9"


def test_never_one_that_is_slower_than_the_original() -> None:
    slow = changed(INT8, latency=timed(0.97)), changed(MIXED, latency=timed(0.9))
    assert shipped(ORIGINAL, FLOAT, *slow) == "float"
    assert shipped(ORIGINAL, changed(FLOAT, latency=timed(0.8)), *slow) == "original"
    best = prefer([ORIGINAL, FLOAT, *slow])
    assert best is not None
    assert "no candidate in fewer bits is better; int8 is slower than the original (0.97)" in best.why


def test_what_loses_nothing_may_be_as_slow_what_loses_something_may_not() -> None:
    assert not is_slower(changed(FLOAT, latency=timed(0.99)))
    assert is_slower(changed(INT8, latency=timed(0.99)))
    assert shipped(ORIGINAL, changed(FLOAT, latency=timed(0.99)), changed(INT8, latency=timed(0.99))) == "float"


def test_what_measuring_cannot_tell_apart_goes_by_size_then_by_accuracy() -> None:
    close = changed(MIXED, latency=timed(1.99))
    assert shipped(ORIGINAL, FLOAT, changed(INT8, weight_bytes=800), close) == "mixed 3 of 9"
    assert shipped(ORIGINAL, FLOAT, changed(INT8, weight_bytes=395), close) == "mixed 3 of 9"
    assert shipped(ORIGINAL, FLOAT, INT8, close) == "int8"
    noisy = changed(INT8, latency=timed(2.0, spread=0.5))
    assert shipped(ORIGINAL, FLOAT, noisy, changed(MIXED, latency=timed(1.2))) == "int8"


def test_no_gain_in_speed_but_in_size() -> None:
    """As fast as the simplified model within noise, surely not slower than the original, and smaller: it ships."""
    assert shipped(ORIGINAL, changed(FLOAT, latency=timed(1.03)), changed(INT8, latency=timed(1.025))) == "int8"
    assert shipped(ORIGINAL, changed(FLOAT, latency=timed(1.0)), changed(INT8, latency=timed(1.005))) == "float"


def test_within_a_budget_it_is_the_one_of_least_error() -> None:
    better = changed(MIXED, within_budget=True, sqnr_db=35.0)
    best = prefer([changed(ORIGINAL, within_budget=False), changed(INT8, within_budget=True), better])
    assert best is not None
    assert best.index == 2
    assert best.why.startswith("the least error within the budget, 1.60 times as fast as the original")
    assert best.why.endswith("; int8 loses more")


def test_a_budget_comes_before_speed_and_behind_the_floor() -> None:
    within = changed(MIXED, within_budget=True)
    beyond = changed(INT8, within_budget=False), changed(FLOAT, within_budget=False)
    assert shipped(changed(ORIGINAL, within_budget=False), *beyond, within) == "mixed 3 of 9"
    failing = changed(within, holds=False)
    assert shipped(changed(ORIGINAL, within_budget=False), *beyond, failing) == "int8"


def test_a_budget_that_is_not_about_time_comes_before_it() -> None:
    small = changed(MIXED, latency=timed(0.9), within_budget=True)
    others = [changed(c, within_budget=False) for c in (ORIGINAL, FLOAT, INT8)]
    best = prefer([*others, small], budget_first=True)
    assert best is not None
    assert best.index == 3
    assert shipped(*others, small) == "int8"
    assert shipped(*others, changed(small, holds=False)) == "int8"


def test_without_an_engine_costs_stand_for_times() -> None:
    candidates = [changed(c, latency=None) for c in (ORIGINAL, FLOAT, INT8, MIXED)]
    assert shipped(*candidates) == "int8"
    best = prefer(candidates)
    assert best is not None
    assert best.why.startswith("0.40 of the original's cost, and above the floor")
    assert shipped(*candidates[:2], changed(candidates[2], cost_share=1.2)) == "float"


def test_the_original_need_not_be_among_them() -> None:
    low = [changed(c, holds=False) for c in (FLOAT, INT8, MIXED)]
    assert shipped(ORIGINAL, *low) == "original"
    assert prefer([ORIGINAL, *low], keep_original=False) is None
    assert prefer(low) is None


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"holds": False}, "int8 is below the floor"),
        ({"latency": timed(0.5)}, "int8 is slower than the original (0.50)"),
        ({"latency": timed(1.2)}, "int8 isn't as fast"),
        ({"within_budget": False}, "int8 is beyond the budget"),
    ],
)
def test_it_is_said_why_the_others_do_not_ship(facts: Mapping[str, object], said: str) -> None:
    mixed = changed(MIXED, within_budget=True) if "within_budget" in facts else MIXED
    best = prefer([ORIGINAL, FLOAT, changed(INT8, **facts), mixed])
    assert best is not None
    assert best.why.endswith(f"1.60 times as fast as the original, and above the floor; {said}")
