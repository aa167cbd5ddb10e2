"""The entropy method against its definition, in plain loops over a dictionary of bins."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.calibration.histogram import Histogram
from graphopt.calibration.kl import divergences, kl_range
from graphopt.quant import Scheme

histograms = st.lists(st.one_of(st.just(0), st.integers(0, 50)), min_size=6, max_size=30).filter(any)


def divergence(counts, first, end, levels):
    """Migacz, GTC 2017, word for word."""
    reference = [float(c) for c in counts[first:end]]
    reference[0] += sum(counts[:first])
    reference[-1] += sum(counts[end:])
    quantized = [0.0] * (end - first)
    for level in range(levels):
        members = [
            k
            for k in range(end - first)
            if level * (end - first) // levels <= k < (level + 1) * (end - first) // levels
        ]
        filled = [k for k in members if counts[first + k] > 0]
        for k in filled:
            quantized[k] = sum(counts[first + m] for m in members) / len(filled)
    result = 0.0
    for p, q in zip(reference, quantized, strict=True):
        if p > 0:
            if q == 0:
                return math.inf
            result += p / sum(reference) * math.log((p / sum(reference)) / (q / sum(quantized)))
    return result


@given(histograms, st.integers(2, 6))
@settings(deadline=None)
def test_every_candidate_s_divergence_is_the_definition_s(counts, levels):
    candidates = [(first, end) for first in range(len(counts)) for end in range(first + levels, len(counts) + 1)]
    firsts, ends = (np.array(side) for side in zip(*candidates, strict=True))
    found = divergences(np.array(counts, np.float64), firsts, ends, levels)
    wanted = [divergence(counts, first, end, levels) for first, end in candidates]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("kind", ["laplace", "normal", "relu"])
def test_the_symmetric_threshold_is_the_brute_force_one(kind):
    rng = np.random.default_rng(5)
    values = {
        "laplace": lambda: rng.laplace(size=3000),
        "normal": lambda: rng.standard_normal(3000),
        "relu": lambda: np.maximum(rng.standard_t(4, 3000), 0),
    }[kind]()
    histogram = Histogram()
    histogram.update(values)
    solved = kl_range(histogram, Scheme("int8", symmetric=True))
    magnitudes = np.abs(values[values != 0])
    width = 2.0 ** np.ceil(np.log2(magnitudes.max())) / 1024
    counts = np.bincount((magnitudes / width).astype(int)).tolist()
    stride = 5  # the loops are slow: every fifth candidate, and the one that was found
    found = max(-float(solved.low), float(solved.high))
    last = len(counts) if found == magnitudes.max() else round(found / width)
    best = divergence(counts, 0, last, 128)
    assert all(best <= divergence(counts, 0, end, 128) + 1e-12 for end in range(len(counts), 127, -stride))


def test_both_ends_are_searched_for_asymmetric_schemes():
    rng = np.random.default_rng(5)
    values = np.append(rng.laplace(size=100_000), rng.uniform(-30, 30, 60))
    histogram = Histogram()
    histogram.update(values)
    solved = kl_range(histogram, Scheme("uint8"))
    assert -20 < float(solved.low) < -4
    assert 4 < float(solved.high) < 20


def test_few_bins_need_no_clipping():
    histogram = Histogram()
    histogram.update(np.repeat(np.arange(-3.0, 9.0), 50))
    solved = kl_range(histogram, Scheme("uint16"))
    assert (float(solved.low), float(solved.high)) == (-3, 8)
