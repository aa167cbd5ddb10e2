import struct
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.calibration import SOLVERS, MinMax, minmax, solver
from graphopt.errors import CalibrationError, ConfigError
from graphopt.quant import Scheme

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
batches = st.lists(st.lists(finite, max_size=6), max_size=6)


def bits(statistic):
    return struct.pack("dd", statistic.low, statistic.high)


def seen(parts):
    statistic = MinMax()
    for part in parts:
        statistic.update(np.array(part, np.float32))
    return statistic


@given(batches)
def test_the_extremes_are_python_s(parts):
    values = [v for part in parts for v in part]
    statistic = seen(parts)
    assert statistic.is_empty == (not values)
    if values:
        assert (statistic.low, statistic.high) == (min(values), max(values))


@given(st.data(), batches)
def test_order_batching_and_sharding_leave_the_same_bits(data, parts):
    whole = bits(seen(parts))
    assert bits(seen(data.draw(st.permutations(parts)))) == whole
    assert bits(seen([[v for part in parts for v in part]])) == whole
    cut = data.draw(st.integers(0, len(parts)))
    for left, right in ((parts[:cut], parts[cut:]), (parts[cut:], parts[:cut])):
        merged = seen(left)
        merged.merge(seen(right))
        assert bits(merged) == whole


@given(st.lists(batches, min_size=3, max_size=3))
def test_merge_is_associative(shards):
    def merged(a, b):
        result = MinMax(a.low, a.high)
        result.merge(b)
        return result

    a, b, c = map(seen, shards)
    assert bits(merged(merged(a, b), c)) == bits(merged(a, merged(b, c))) == bits(reduce(merged, [a, b, c], MinMax()))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_only_finite_values_are_taken(value):
    with pytest.raises(CalibrationError, match="finite"):
        MinMax().update(np.array([1.0, value, 2.0]))


def test_the_minmax_solver_clips_nothing_whatever_the_scheme():
    for scheme in (Scheme("uint8"), Scheme("int8", symmetric=True)):
        solved = minmax(MinMax(-1.5, 6.0), scheme)
        assert (solved.low.shape, float(solved.low), float(solved.high)) == ((), -1.5, 6.0)
    with pytest.raises(CalibrationError, match="no value was observed"):
        minmax(MinMax(), Scheme("uint8"))


def test_solvers_are_found_by_name():
    assert solver("minmax") is SOLVERS["minmax"]
    assert SOLVERS["minmax"].solve is minmax
    with pytest.raises(ConfigError, match=r"'minmx': did you mean 'minmax'\?"):
        solver("minmx")
    with pytest.raises(ConfigError, match="there are: minmax, ema"):
        solver("entropy")
