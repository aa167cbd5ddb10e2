"""Budgets as users write them, and what they allow."""

from __future__ import annotations

import pytest

from graphopt.analysis.precision.budget import Budget, float_cost, parse_budget
from graphopt.analysis.precision.types import Costs, Region, Regions
from graphopt.errors import ConfigError

_REGIONS = Regions(
    tuple(Region(n, "Conv", (n,), (), ("int8", "float32"), (), f"{n}.y") for n in ("a", "b")),
    (),
)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("latency=0.6x", Budget("latency", 0.6, "x")),
        ("latency = 3 ms", Budget("latency", 3.0, "ms")),
        ("size=.3x", Budget("size", 0.3, "x")),
        ("size=1.5MB", Budget("size", 1.5, "MB")),
        ("bits=6", Budget("bits", 6.0, "")),
    ],
)
def test_reads(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("0.6x", "is no budget"),
        ("speed=2", "is no budget"),
        ("latency=0.6", "latency is given in x, s, ms, us"),
        ("size=3ms", "size is given in x, B, kB, MB"),
        ("bits=6x", "bits is given without a unit"),
        ("latency=0x", "more than 0 and at most 1"),
        ("size=1.2x", "at most 1"),
        ("bits=40", "at most 32"),
    ],
)
def test_refuses(text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        parse_budget(text)


def test_a_part_is_of_everything_in_float() -> None:
    seconds = {("a", "float32"): 0.2, ("b", "float32"): 0.3, ("a", "int8"): 0.1}
    costs = Costs("latency", seconds, {}, fixed=0.5)
    assert float_cost(_REGIONS, costs) == pytest.approx(1.0)
    assert parse_budget("latency=0.6x").limit(_REGIONS, costs) == pytest.approx(0.6)
    assert parse_budget("latency=40ms").limit(_REGIONS, costs) == pytest.approx(0.04)


def test_bits_are_the_mean_over_multiply_accumulates() -> None:
    macs = {"a": 100.0, "b": 300.0}
    costs = Costs("bits", {(n, p): m * b for n, m in macs.items() for p, b in (("float32", 32), ("int8", 8))}, {})
    # All of b in 8 bits and a in float32: (100·32 + 300·8) / 400 = 14 bits.
    assert parse_budget("bits=14").limit(_REGIONS, costs) == pytest.approx(100 * 32 + 300 * 8)
