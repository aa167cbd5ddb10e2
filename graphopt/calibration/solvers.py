"""Pure solvers: what was seen of a tensor (a statistic) and its scheme → the range to represent.

`SOLVERS` is the table of methods: what each needs to have been collected, and the function. A histogram serves all of
them but `ema`, so one pass over the data feeds every method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from graphopt.calibration.histogram import Histogram
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
    """

    name: str
    needs: type[Statistic]
    takes: tuple[type[Statistic], ...]
    solve: Solver


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


def _require_values(statistic: Statistic) -> None:
    if statistic.is_empty:
        raise CalibrationError(
            "no value was observed (the tensor is empty in every sample): give samples that fill it, or keep it float"
        )


_METHODS = (
    Method("minmax", MinMax, (MinMax, Histogram), minmax),
    Method("ema", EmaMinMax, (EmaMinMax,), ema),
)

SOLVERS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _METHODS})


def solver(method: str) -> Method:
    """The method named `method`.

    Raises:
        ConfigError: there is none of that name.
    """
    if method not in SOLVERS:
        raise ConfigError(f"there is no calibration method '{method}': {nearest(method, SOLVERS)}")
    return SOLVERS[method]
