"""Per-channel extremes: each channel's are those of a statistic of its own, in any order, batching and sharding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from graphopt.calibration.channels import ChannelMinMax
from graphopt.calibration.statistics import MinMax, NotFiniteError

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
arrays_4 = arrays(np.float32, st.tuples(st.integers(1, 3), st.just(4), st.integers(1, 3)), elements=finite)
parts = st.lists(arrays_4, min_size=1, max_size=5)


def seen(given_arrays, axis=1):
    statistic = ChannelMinMax(axis)
    for array in given_arrays:
        statistic.update(array)
    return statistic


def bits(statistic):
    return statistic.lows.tobytes() + statistic.highs.tobytes()


@given(parts, st.sampled_from([1, -2]))
def test_each_channel_is_a_statistic_of_its_own(arrays, axis):
    statistic = seen(arrays, axis)
    for channel in range(4):
        alone = MinMax()
        for array in arrays:
            alone.update(array[:, channel])
        assert (statistic.lows[channel], statistic.highs[channel]) == (alone.low, alone.high)


@given(st.data(), parts)
def test_order_and_sharding_leave_the_same_bits(data, arrays):
    whole = bits(seen(arrays))
    assert bits(seen(data.draw(st.permutations(arrays)))) == whole
    cut = data.draw(st.integers(0, len(arrays)))
    merged = seen(arrays[cut:])
    merged.merge(seen(arrays[:cut]))
    assert bits(merged) == whole
    assert bits(ChannelMinMax.from_state(merged.state())) == whole


def test_until_every_channel_has_had_a_value_there_are_no_ranges():
    statistic = ChannelMinMax(0)
    assert statistic.is_empty
    statistic.update(np.zeros((3, 0), np.float32))
    assert statistic.is_empty
    statistic.update(np.array([[1.0], [-2.0], [0.5]]))
    assert not statistic.is_empty
    assert statistic.ranges().low.tolist() == [1.0, -2.0, 0.5]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_its_channel(value):
    statistic = seen([np.ones((1, 4, 1))])
    before = bits(statistic)
    bad = np.ones((2, 4, 2))
    bad[1, 2, 0] = value
    with pytest.raises(NotFiniteError, match="channel 2"):
        statistic.update(bad)
    assert bits(statistic) == before


def test_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="5 channels after 4"):
        seen([np.ones((1, 4)), np.ones((1, 5))])
