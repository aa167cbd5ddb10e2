import numpy as np
import pytest

from graphopt.calibration.auto import relative_errors
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.solvers import SOLVERS, solver
from graphopt.calibration.statistics import EmaMinMax, MinMax
from graphopt.errors import CalibrationError, ConfigError
from graphopt.quant import Range, Scheme, dequantize, quantize, solve_params

SYMMETRIC, ASYMMETRIC = Scheme("int8", symmetric=True), Scheme("uint8")
SCHEMES = [SYMMETRIC, ASYMMETRIC, Scheme("int8"), Scheme("uint8", symmetric=True), Scheme("int16", symmetric=True)]
SEARCHING = ["percentile", "kl", "mse", "auto"]


def seen(values):
    histogram = Histogram()
    histogram.update(np.asarray(values))
    return histogram


def ends(solved):
    return float(solved.low), float(solved.high)


def normal(n=100_000, seed=0):
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def test_each_method_takes_what_the_table_says_it_needs():
    filled = {MinMax: MinMax(-1.0, 2.0), EmaMinMax: EmaMinMax(), Histogram: seen([-1.0, 2.0])}
    filled[EmaMinMax].update(np.array([-1.0, 2.0]))
    for name, method in SOLVERS.items():
        assert method.name == name
        assert method.needs in method.takes
        for statistic in method.takes:
            low, high = ends(method.solve(filled[statistic], ASYMMETRIC))
            assert -1.0 <= low <= 0 <= high <= 2.0
            with pytest.raises(CalibrationError, match="no value was observed"):
                method.solve(statistic(), ASYMMETRIC)


@pytest.mark.parametrize("name", SEARCHING)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_ranges_stay_within_the_data_and_zero(name, scheme):
    x = normal(5000)
    for values in (x, np.abs(x) + 3, -np.abs(x) - 3, np.maximum(x, 0), x * 1e-42, x * 1e30, x[:1], [0.0, 0.0, 5e-7]):
        values = np.asarray(values, np.float32)
        low, high = ends(SOLVERS[name].solve(seen(values), scheme))
        assert min(values.min(), 0) <= low <= 0 <= high <= max(values.max(), 0)
        assert low < high
    assert ends(SOLVERS[name].solve(seen([0.0, -0.0]), scheme)) == (0, 0)


@pytest.mark.parametrize("name", SEARCHING)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_ranges_scale_with_the_values(name, scheme):
    """By powers of two exactly, far beyond where the squares of the values underflow or overflow."""
    values = np.random.default_rng(2).laplace(size=20_000)
    low, high = ends(SOLVERS[name].solve(seen(values), scheme))
    for power in (-900, -140, 120, 900):
        scaled = ends(SOLVERS[name].solve(seen(np.ldexp(values, power)), scheme))
        assert scaled == (np.ldexp(low, power), np.ldexp(high, power))
    assert ends(SOLVERS[name].solve(seen([5e-324, -1e-320]), scheme)) == (-1e-320, 5e-324)


@pytest.mark.parametrize("name", ["kl", "mse"])
@pytest.mark.parametrize("scheme", SCHEMES[:4], ids=str)
def test_an_outlier_hardly_moves_a_threshold_wherever_it_stands(name, scheme):
    for values in (normal(), np.maximum(normal(seed=1), 0)):
        without = np.array(ends(SOLVERS[name].solve(seen(values), scheme)))
        found = set()
        for at in (0, 31_234, len(values)):
            histogram = Histogram()
            for part in np.array_split(np.insert(values, at, 40.0), 7):
                histogram.update(part)
            found.add(ends(SOLVERS[name].solve(histogram, scheme)))
        assert len(found) == 1
        np.testing.assert_allclose(found.pop(), without, rtol=0.05)
        mirrored = ends(SOLVERS[name].solve(seen(np.append(normal(), np.float32(-40))), scheme))
        np.testing.assert_allclose(mirrored, ends(SOLVERS[name].solve(seen(normal()), scheme)), rtol=0.05)


@pytest.mark.parametrize("name", ["kl", "mse"])
def test_16_bits_have_room_for_an_outlier(name):
    low, high = ends(SOLVERS[name].solve(seen(np.append(normal(), np.float32(40))), Scheme("uint16")))
    assert (low, high) == (pytest.approx(normal().min(), rel=0.02), 40)


@pytest.mark.parametrize("p", [90.0, 99.0, 99.9, 99.99])
def test_percentiles_leave_out_the_share_they_say(p):
    values = np.append(normal(), np.zeros(50_000, np.float32))
    histogram = seen(values)
    solved = solver(f"percentile{{p={p}}}").solve
    outside = len(values) * (1 - p / 100)

    def left_out(beyond, threshold, wanted):
        """Values in the threshold's own bin may be counted on either side."""
        bin_start = np.floor(threshold / histogram.width) * histogram.width
        assert (beyond >= bin_start + histogram.width).sum() <= wanted + 1e-6
        assert (beyond >= bin_start - histogram.width * 1e-6).sum() >= wanted - 1e-6

    low, high = ends(solved(histogram, SYMMETRIC))
    assert low == -high
    left_out(np.abs(values), high, outside)
    low, high = ends(solved(histogram, ASYMMETRIC))
    left_out(-values, -low, outside / 2)
    left_out(values, high, outside / 2)


def test_percentile_100_is_minmax_and_the_default_is_99_99():
    histogram = seen(normal())
    for scheme in SCHEMES:
        assert ends(solver("percentile{p=100}").solve(histogram, scheme)) == (histogram.low, histogram.high)
        default, stated = (solver(name).solve(histogram, scheme) for name in ("percentile", "percentile{p=99.99}"))
        assert ends(default) == ends(stated)
    for wrong in ("percentile{p=0.9}", "percentile{p=101}", "percentile{p=1.2.3}"):
        with pytest.raises(ConfigError, match="above 50"):
            solver(wrong)


def test_auto_keeps_few_large_values_that_carry_the_signal_and_clips_a_long_tail():
    sink = np.append(normal(), np.full(8, 400, np.float32))
    assert ends(SOLVERS["mse"].solve(seen(sink), SYMMETRIC))[1] < 5
    assert ends(SOLVERS["auto"].solve(seen(sink), SYMMETRIC))[1] == 400
    tail = np.random.default_rng(0).laplace(size=1_000_000).astype(np.float32)
    assert ends(SOLVERS["auto"].solve(seen(tail), SYMMETRIC))[1] < 0.95 * np.abs(tail).max()


def test_auto_covers_values_that_nearly_all_are_zeros():
    values = np.append(np.zeros(100_000), [3.0, -1.0])
    assert ends(SOLVERS["percentile"].solve(seen(values), ASYMMETRIC)) == (0, 0)
    assert relative_errors(seen(values), [Range.of(0, 0)], ASYMMETRIC)[0] == pytest.approx(1, rel=1e-3)
    assert ends(SOLVERS["auto"].solve(seen(values), ASYMMETRIC)) == (-1, 3)


@pytest.mark.parametrize("scheme", [SYMMETRIC, ASYMMETRIC], ids=str)
def test_auto_judges_by_the_error_that_quantizing_makes(scheme):
    x = normal(200_000)
    ranges = [Range.of(-a, b) for a, b in ((4.0, 4.0), (2.0, 3.0), (1.0, 4.5), (0.5, 0.5))]
    predicted = relative_errors(seen(x), ranges, scheme)
    for solved, error in zip(ranges, predicted, strict=True):
        params = solve_params(solved, scheme)
        made = float(np.mean((x - dequantize(quantize(x, params), params)) ** 2) / np.mean(x.astype(np.float64) ** 2))
        assert error == pytest.approx(made, rel=0.02)
