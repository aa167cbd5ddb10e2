"""Pure solvers: what was seen of a tensor (a statistic) and its scheme → the range to represent.

`SOLVERS` is the table of methods: what each needs to have been collected, and the function. A histogram serves all of
them but `ema`, so one pass over the data feeds every method.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from graphopt.analysis.response import Response
from graphopt.calibration.auto import choose
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.kl import kl_range
from graphopt.calibration.mse import mse_range
from graphopt.calibration.percentile import percentile_range
from graphopt.calibration.statistics import EmaMinMax, MinMax, Statistic
from graphopt.errors import CalibrationError, ConfigError, nearest
from graphopt.quant import Range, Scheme

# Of a statistic that the method takes, and a scheme. CalibrationError when the statistic is empty.
Solver = Callable[[Any, Scheme], Range]


@dataclass(frozen=True)
class Method:
    """A way to choose ranges.

    Attributes:
        name: as in `--calibration-method`, with its parameter where it has one ("percentile{p=99.9}").
        needs: the cheapest class of statistic that it takes.
        takes: every class that it takes.
        solve: (statistic, scheme) → Range; pure.
        through: (statistic, scheme, response) → Range, for a tensor whose values are read through one function alone;
            None where the method doesn't look at errors.
    """

    name: str
    needs: type[Statistic]
    takes: tuple[type[Statistic], ...]
    solve: Solver
    through: Callable[[Any, Scheme, Response], Range] | None = None


def minmax(statistic: MinMax | Histogram, scheme: Scheme) -> Range:
    """[smallest value, largest value]: nothing is clipped, whatever the scheme.

    Raises:
        CalibrationError: no value was seen.
    """
    del scheme  # every scheme can cover the values; other solvers trade clipping against its step size
    _require_values(statistic)
    return Range.of(statistic.low, statistic.high)


def ema(statistic: EmaMinMax, scheme: Scheme) -> Range:
    """The exponential moving averages of the samples' smallest and largest values, in the order of the samples.

    Raises:
        CalibrationError: no value was seen.
    """
    del scheme
    _require_values(statistic)
    low, high = statistic.average()
    return Range.of(low, high)


def percentile(statistic: Histogram, scheme: Scheme, *, p: float = 99.99) -> Range:
    """The range that holds `p` percent of the values: of |x| for symmetric schemes, between two tails for others.

    Raises:
        CalibrationError: no value was seen.
    """
    return _searched(statistic, scheme, partial(percentile_range, p=p))


def kl(statistic: Histogram, scheme: Scheme) -> Range:
    """The entropy method of TensorRT; see the module `kl`.

    Raises:
        CalibrationError: no value was seen.
    """
    return _searched(statistic, scheme, kl_range)


def mse(statistic: Histogram, scheme: Scheme, response: Response | None = None) -> Range:
    """The range of least expected squared quantization error, of `response`'s values where it is given; see `mse`.

    Raises:
        CalibrationError: no value was seen.
    """
    return _searched(statistic, scheme, partial(mse_range, response=response))


def auto(statistic: Histogram, scheme: Scheme) -> Range:
    """The widest of the other methods' ranges that costs next to nothing on this tensor; see the module `auto`.

    Raises:
        CalibrationError: no value was seen.
    """
    return _searched(statistic, scheme, _best_candidate)


def _best_candidate(histogram: Histogram, scheme: Scheme) -> Range:
    ranges = [method(histogram, scheme) for method in (minmax, percentile, kl, mse)]
    return ranges[choose(histogram, ranges, scheme)]


def _searched(histogram: Histogram, scheme: Scheme, search: Callable[[Histogram, Scheme], Range]) -> Range:
    _require_values(histogram)
    if histogram.width == 0.0:
        # Zeros only, or float64 values so small that the width of a bin can't be written down.
        return Range.of(histogram.low, histogram.high)
    return search(histogram, scheme)


def _require_values(statistic: Statistic) -> None:
    if statistic.is_empty:
        raise CalibrationError(
            "no value was observed (the tensor is empty in every sample): give samples that fill it, or keep it float"
        )


_METHODS = (
    Method("minmax", MinMax, (MinMax, Histogram), minmax),
    Method("ema", EmaMinMax, (EmaMinMax,), ema),
    Method("percentile", Histogram, (Histogram,), percentile),
    Method("kl", Histogram, (Histogram,), kl),
    Method("mse", Histogram, (Histogram,), mse, mse),
    Method("auto", Histogram, (Histogram,), auto),
)

SOLVERS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _METHODS})


def solver(method: str) -> Method:
    """The method named `method`; percentile may be given its parameter: "percentile{p=99.9}".

    Raises:
        ConfigError: there is none of that name, or its parameter is wrong.
    """
    with_p = re.fullmatch(r"percentile\{p=([0-9.]+)\}", method)
    if with_p is not None:
        return replace(SOLVERS["percentile"], name=method, solve=partial(percentile, p=_share(with_p[1])))
    if method not in SOLVERS:
        raise ConfigError(f"there is no calibration method '{method}': {nearest(method, SOLVERS)}")
    return SOLVERS[method]


def _share(text: str) -> float:
    try:
        p = float(text)
    except ValueError:
        p = 0.0
    if not 50 < p <= 100:
        raise ConfigError(f"percentile{{p={text}}}: expected a percentage above 50, at most 100, as in p=99.99")
    return p
