"""The squared error of a histogram, and the range of least error, against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.calibration.histogram import Histogram
from graphopt.calibration.mse import mse_range, squared_error
from graphopt.calibration.outliers import Bulk
from graphopt.quant import Scheme

SCHEMES = [Scheme("int8", symmetric=True), Scheme("uint8"), Scheme("int8"), Scheme("int8", symmetric=True, narrow=True)]


def rounded(values, low, high, scheme):
    """Quantized and dequantized by the definition."""
    if scheme.symmetric:
        step, zero = max(-low / -scheme.qmin, high / scheme.qmax), 0
    else:
        step = (high - low) / scheme.steps
        zero = round(scheme.qmin - low / step)
    return (np.clip(np.rint(values / step) + zero, scheme.qmin, scheme.qmax) - zero) * step


def error_by_sampling(bulk, low, high, scheme):
    """Each bin as 4,000 points, each quantized by the definition."""
    total = 0.0
    for i, count in enumerate(bulk.counts):
        x = (i - bulk.below + (np.arange(4000) + 0.5) / 4000) * bulk.width
        total += count * float(np.mean((x - rounded(x, low, high, scheme)) ** 2))
    return total


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    st.integers(0, 12),
    st.sampled_from(SCHEMES),
    st.floats(0.05, 1.0),
    st.floats(0.05, 1.0),
)
@settings(max_examples=60, deadline=None)
def test_the_error_is_the_integral_over_uniform_bins(counts, below, scheme, low_share, high_share):
    below = min(below, len(counts))
    width = 0.25
    low, high = -below * width * low_share, (len(counts) - below) * width * high_share
    bulk = Bulk(width, below, np.array(counts, np.float64), low, high)
    found = squared_error(bulk, np.array([low]), np.array([high]), scheme)
    assert found[0] * width**2 == pytest.approx(error_by_sampling(bulk, low, high, scheme), rel=0.01)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("kind", ["normal", "laplace", "skewed", "relu", "uniform", "two humps"])
def test_the_range_is_as_good_as_the_best_of_a_full_search(kind, scheme):
    rng = np.random.default_rng(3)
    values = {
        "normal": lambda: rng.standard_normal(20_000),
        "laplace": lambda: rng.laplace(size=20_000),
        "skewed": lambda: rng.gamma(1.5, size=20_000) - 0.7,
        "relu": lambda: np.maximum(rng.standard_t(5, 20_000), 0),
        "uniform": lambda: rng.uniform(-3, 1, 20_000),
        "two humps": lambda: np.append(rng.normal(-9, 0.3, 300), rng.normal(2, 1, 19_700)),
    }[kind]()
    histogram = Histogram()
    histogram.update(values)
    solved = mse_range(histogram, scheme)

    def error(low, high):
        """Of the values themselves."""
        return float(np.mean((values - rounded(values, low, high, scheme)) ** 2))

    bottom, top = min(values.min(), 0.0), max(values.max(), 0.0)
    shares = np.linspace(0.1, 1, 46)
    if scheme.symmetric:
        biggest = max(-bottom, top)
        best = min(error(max(bottom, -s * biggest), min(top, s * biggest)) for s in shares)
    else:
        lows = [bottom * s for s in shares[::2]] if bottom < 0 else [0.0]
        best = min(error(low, top * s) for low in lows for s in shares[::2])
    assert error(float(solved.low), float(solved.high)) <= best * 1.02


def leaky(values):
    return np.where(values < 0, 0.1 * values, values)


def silu(values):
    return values / (1 + np.exp(-values))


@pytest.mark.parametrize("function", [leaky, silu, np.tanh], ids=lambda f: f.__name__)
@pytest.mark.parametrize("scheme", SCHEMES[:2], ids=str)
def test_behind_a_function_the_range_is_as_good_as_the_best_of_a_full_search(function, scheme):
    """By the values themselves; a range for the tensor's own error is clearly worse behind the function."""
    values = np.random.default_rng(5).normal(-0.5, 2.0, 20_000)
    histogram = Histogram()
    histogram.update(values)

    def error(low, high):
        return float(np.mean((function(values) - function(rounded(values, low, high, scheme))) ** 2))

    shares = np.linspace(0.02, 1, 50)
    lows = [values.min() * s for s in shares]
    best = min(error(low, values.max() * s) for low in lows for s in shares[::2])
    solved, plain = mse_range(histogram, scheme, function), mse_range(histogram, scheme)
    assert error(float(solved.low), float(solved.high)) <= best * 1.03
    if not scheme.symmetric:
        assert error(float(plain.low), float(plain.high)) > best * 1.15


def test_a_function_that_says_nothing_about_the_data_is_not_used():
    histogram = Histogram()
    histogram.update(np.random.default_rng(6).normal(0, 1, 5_000))
    scheme = SCHEMES[1]
    for function in (np.zeros_like, lambda values: np.full_like(values, np.nan)):
        assert mse_range(histogram, scheme, function) == mse_range(histogram, scheme)
