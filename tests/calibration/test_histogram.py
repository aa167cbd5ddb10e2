import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.calibration.binning import BINS
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.statistics import NotFiniteError

# Magnitudes from denormals to near the largest float32, on both sides, with zeros of both signs.
finite = st.one_of(st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from([0.0, -0.0, 1.0, -2.0]))
batches = st.lists(st.lists(finite, max_size=6), max_size=6)


def seen(parts, dtype=np.float32):
    histogram = Histogram()
    for part in parts:
        histogram.update(np.array(part, dtype))
    return histogram


def bits(histogram):
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in histogram.state().items()}


def by_hand(values):
    """The bins of single values, in exact integer arithmetic."""
    biggest = max((abs(v) for v in values), default=0.0)
    exponent = math.frexp(biggest)[1] - (BINS.bit_length() - 1)
    sides = {1: {}, -1: {}}
    for v in values:
        if v:
            numerator, denominator = abs(v).as_integer_ratio()
            shifted = (numerator << max(-exponent, 0), denominator << max(exponent, 0))
            side = sides[1 if v > 0 else -1]
            side[shifted[0] // shifted[1]] = side.get(shifted[0] // shifted[1], 0) + 1
    return exponent, sides[1], sides[-1], sum(v == 0 for v in values)


def filled(counts):
    return {int(k): int(counts[k]) for k in np.nonzero(counts)[0]}


@given(batches)
def test_bins_are_exact_and_zeros_are_counted_apart(parts):
    values = [float(v) for part in parts for v in part]
    histogram = seen(parts)
    exponent, positive, negative, zeros = by_hand(values)
    assert (filled(histogram.positive), filled(histogram.negative), histogram.zeros) == (positive, negative, zeros)
    assert histogram.exponent == (exponent if any(values) else None)
    assert histogram.count == len(values)
    if values:
        assert (histogram.low, histogram.high) == (min(values), max(values))
    else:
        assert histogram.is_empty


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
@settings(max_examples=30)
def test_merge_is_associative_and_leaves_the_other_alone(shards):
    def merged(a, b):
        result = Histogram.from_state(a.state())
        before = bits(b)
        result.merge(b)
        assert bits(b) == before
        return result

    a, b, c = map(seen, shards)
    assert bits(merged(merged(a, b), c)) == bits(merged(a, merged(b, c)))


@given(batches)
def test_the_state_is_the_whole_of_it(parts):
    histogram = seen(parts)
    state = histogram.state()
    copy = Histogram.from_state(state)
    copy.update(np.array([3e38, -1.0], np.float32))
    assert bits(Histogram.from_state(state)) == bits(histogram)
    histogram.update(np.array([3e38, -1.0], np.float32))
    assert bits(copy) == bits(histogram)


@given(batches)
def test_the_mirror_image_of_the_values_has_the_mirror_image_of_the_bins(parts):
    histogram, mirrored = seen(parts), seen([[-v for v in part] for part in parts])
    assert np.array_equal(histogram.positive, mirrored.negative)
    assert np.array_equal(histogram.negative, mirrored.positive)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "uint64", "float16", "float32", "float64"])
def test_every_numeric_type_has_the_bins_of_its_values(dtype):
    values = np.random.default_rng(0).uniform(0, 120, (7, 11)).astype(dtype)
    assert bits(seen([values], dtype)) == bits(seen([values.astype(np.float64)], np.float64))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_float64_in_its_whole_range(values):
    histogram = seen([values], np.float64)
    exponent, positive, negative, zeros = by_hand(values)
    assert (filled(histogram.positive), filled(histogram.negative), histogram.zeros) == (positive, negative, zeros)
    assert histogram.exponent == (exponent if any(values) else None)


def test_arrays_longer_than_a_chunk_and_not_contiguous():
    x = np.random.default_rng(0).standard_normal((2, 300_000)).astype(np.float32)
    assert bits(seen([x.T[::2]])) == bits(seen(np.array_split(x.T[::2].copy(), 5)))
    whole = seen([x])
    k = np.floor(np.ldexp(np.abs(x.astype(np.float64)), -whole.exponent)).astype(int)
    assert np.array_equal(whole.positive, np.bincount(k[x > 0], minlength=BINS))
    assert np.array_equal(whole.negative, np.bincount(k[x < 0], minlength=BINS))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_only_finite_values_are_taken_and_a_refusal_changes_nothing(value):
    histogram = seen([[1.0, -2.0]])
    before = bits(histogram)
    with pytest.raises(NotFiniteError, match="finite"):
        histogram.update(np.array([1.0, value, 200.0], np.float32))
    with pytest.raises(ValueError, match="finite"):
        histogram.update(np.array(value))
    assert bits(histogram) == before


def test_counts_binned_elsewhere_are_taken_in():
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    k = np.floor(np.abs(values) / 2**-11).astype(int)
    counted = Histogram()
    positive, negative = (np.bincount(k[side], minlength=BINS) for side in (values > 0, values < 0))
    counted.add_counts(-11, positive, negative, 0, float(values.min()), float(values.max()))
    assert bits(counted) == bits(seen([values]))
    wide = Histogram()
    with pytest.raises(ValueError, match="can't be split"):
        wide.add_counts(3, np.array([1, 0]), np.zeros(2, np.int64), 0, 1.0, 1.0)
